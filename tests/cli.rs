//! The command line as its users meet it: what each command prints, and how it fails.

#[test]
fn cli() {
    trycmd::TestCases::new().case("tests/cmd/*.trycmd").case("README.md");
}
