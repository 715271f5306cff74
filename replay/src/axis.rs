//! A parameter's values, to be tried one by one: `nslabs=1024..65536` doubles, `nslabs=4096..65536+4096` steps,
//! `areas=1|4|16` lists. Several axes make a grid.

use crate::policy::{Policy, PolicyError, integer};

/// Values one axis may have: more is a mistake in the text, not a plan.
pub const MAX_VALUES: usize = 4096;

/// An axis that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AxisError {
    /// Not of the form `name=values`.
    #[error(
        "`{text}` is not a range of values; write nslabs=1024..65536 (doubling), nslabs=4096..65536+4096 (steps) or areas=1|4|16"
    )]
    Form {
        /// What was given.
        text: String,
    },
    /// Too many values.
    #[error("`{text}` has more than {MAX_VALUES} values; take larger steps")]
    TooMany {
        /// What was given.
        text: String,
    },
    /// A value does not fit the policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

/// A parameter and the values to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    name: String,
    values: Vec<String>,
}

impl Axis {
    /// Reads an axis as people write it.
    ///
    /// # Errors
    /// When it is not of one of the forms above, is empty, or has more than [`MAX_VALUES`] values.
    pub fn parse(text: &str) -> Result<Self, AxisError> {
        let form = || AxisError::Form { text: text.to_owned() };
        let (name, values) = text.split_once('=').ok_or_else(form)?;
        let values = match values.split_once("..") {
            Some((from, to)) => {
                let (to, step) = to.split_once('+').map_or((to, None), |(to, step)| (to, Some(step)));
                let number = |text: &str| integer(text).filter(|&n| n > 0).ok_or_else(form);
                let (from, to) = (number(from)?, number(to)?);
                let step = step.map(number).transpose()?;
                let next = |&n: &u64| match step {
                    Some(step) => n.checked_add(step),
                    None => n.checked_mul(2),
                };
                let values = std::iter::successors(Some(from), next).take_while(|&n| n <= to);
                values.take(MAX_VALUES + 1).map(|n| n.to_string()).collect()
            }
            None => values.split('|').map(str::to_owned).collect::<Vec<_>>(),
        };
        if name.is_empty() || values.iter().any(String::is_empty) || values.is_empty() {
            return Err(form());
        }
        if values.len() > MAX_VALUES {
            return Err(AxisError::TooMany { text: text.to_owned() });
        }
        Ok(Self { name: name.to_owned(), values })
    }
}

/// Every policy with every combination of the axes' values, the last axis changing fastest. Without axes, the policies
/// themselves.
///
/// # Errors
/// When a policy does not take a parameter, or not that value, or the grid has more than [`MAX_VALUES`] points.
pub fn grid(policies: &[Policy], axes: &[Axis]) -> Result<Vec<Policy>, AxisError> {
    let mut points = policies.to_vec();
    for axis in axes {
        if points.len().saturating_mul(axis.values.len()) > MAX_VALUES {
            return Err(AxisError::TooMany { text: format!("{}=…", axis.name) });
        }
        let mut next = Vec::with_capacity(points.len() * axis.values.len());
        for policy in &points {
            for value in &axis.values {
                let joint = if policy.text().contains(':') { ',' } else { ':' };
                next.push(Policy::parse(&format!("{}{joint}{}={value}", policy.text(), axis.name))?);
            }
        }
        points = next;
    }
    Ok(points)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<String> {
        Axis::parse(text).unwrap().values
    }

    #[test]
    fn doubling_steps_and_lists() {
        assert_eq!(values("nslabs=1024..8191"), ["1024", "2048", "4096"]);
        assert_eq!(values("nslabs=0x400..4096+1024"), ["1024", "2048", "3072", "4096"]);
        assert_eq!(values("areas=1|4|16"), ["1", "4", "16"]);
        assert_eq!(values("swiotlb=4096,force|512"), ["4096,force", "512"]);
        assert_eq!(values("nslabs=9223372036854775808..18446744073709551615").len(), 1);
    }

    #[test]
    fn what_is_no_axis() {
        for text in ["nslabs", "=1..2", "nslabs=", "nslabs=8..4", "nslabs=0..4", "nslabs=1..4+0", "a=1||2", "n=1..x"] {
            assert_eq!(Axis::parse(text), Err(AxisError::Form { text: text.to_owned() }));
        }
        assert!(matches!(Axis::parse("nslabs=1..9999999+1"), Err(AxisError::TooMany { .. })));
    }

    #[test]
    fn a_grid_is_every_combination() {
        let policies = [Policy::parse("v6_10").unwrap(), Policy::parse("v6_8:start=0x1000").unwrap()];
        let axes = [Axis::parse("nslabs=1024..2048").unwrap(), Axis::parse("areas=1|8").unwrap()];
        let texts: Vec<_> = grid(&policies, &axes).unwrap().iter().map(|p| p.text().to_owned()).collect();
        assert_eq!(texts.len(), 8);
        assert_eq!(texts[1], "v6_10:nslabs=1024,areas=8");
        assert_eq!(texts[6], "v6_8:start=0x1000,nslabs=2048,areas=1");
        let legacy = [Policy::parse("legacy").unwrap()];
        assert!(matches!(grid(&legacy, &axes), Err(AxisError::Policy(PolicyError::UnknownParameter { .. }))));
        let many = Axis::parse("nslabs=1..4096+1").unwrap();
        assert!(matches!(grid(&policies, &[many]), Err(AxisError::TooMany { .. })));
    }
}
