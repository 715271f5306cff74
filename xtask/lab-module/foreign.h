/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Foreign pages without a second domain: a dom0 grants pages to itself and maps them once more. The new pages' frames are
 * then those of the granted ones, marked foreign in the p2m. They are granted in falling order, so that a buffer of
 * several pages also straddles.
 */
#ifndef SWIO_LAB_FOREIGN_H
#define SWIO_LAB_FOREIGN_H

#include <linux/err.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/version.h>

#if IS_ENABLED(CONFIG_XEN_DOM0) && IS_ENABLED(CONFIG_XEN_PV)
#include <xen/grant_table.h>
#include <xen/page.h>
#include <xen/xen.h>

/* More than any buffer of a test has. */
#define FOREIGN_MAX 64

struct foreign {
	unsigned int count, granted;
	unsigned int own_order;
	struct page *own;
	struct page *pages[FOREIGN_MAX];
	grant_ref_t refs[FOREIGN_MAX];
	struct gnttab_map_grant_ref map[FOREIGN_MAX];
	struct gnttab_unmap_grant_ref unmap[FOREIGN_MAX];
};

static int foreign_by_address(const void *a, const void *b)
{
	const struct page *const *x = a, *const *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* Undoes grants and frees pages; what is mapped must be unmapped before. */
static void foreign_free(struct foreign *foreign)
{
	bool ended = true;

	/* A page that is still in use by a grant must never be given to anybody else. */
	while (foreign->granted)
		ended &= gnttab_try_end_foreign_access(foreign->refs[--foreign->granted]) != 0;
	if (foreign->own && ended)
		__free_pages(foreign->own, foreign->own_order);
	if (foreign->count)
		gnttab_free_pages(foreign->count, foreign->pages);
	kfree(foreign);
}

static void foreign_put(struct foreign *foreign)
{
	if (gnttab_unmap_refs(foreign->unmap, NULL, foreign->pages, foreign->count))
		pr_err("swio_lab: foreign pages cannot be unmapped and stay\n");
	else
		foreign_free(foreign);
}

static struct foreign *foreign_get(unsigned long count, struct page **first)
{
	struct foreign *foreign;
	unsigned int i;
	void *at;
	int ref, error = -ENOMEM;

	if (!xen_initial_domain() || !xen_pv_domain())
		return ERR_PTR(-EOPNOTSUPP);
	if (count > FOREIGN_MAX)
		return ERR_PTR(-EINVAL);
	foreign = kzalloc(sizeof(*foreign), GFP_KERNEL);
	if (!foreign)
		return ERR_PTR(-ENOMEM);
	error = gnttab_alloc_pages(count, foreign->pages);
	if (error)
		goto fail;
	foreign->count = count;
	/* They come in any order; a buffer takes neighbours. */
	sort(foreign->pages, count, sizeof(foreign->pages[0]), foreign_by_address, NULL);
	error = -ENOSPC;
	for (i = 1; i < count; i++)
		if (page_to_pfn(foreign->pages[i]) != page_to_pfn(foreign->pages[0]) + i)
			goto fail;
	error = -ENOMEM;
	foreign->own_order = get_order(count << PAGE_SHIFT);
	foreign->own = alloc_pages(GFP_KERNEL | __GFP_ZERO, foreign->own_order);
	if (!foreign->own)
		goto fail;
	for (i = 0; i < count; i++) {
		ref = gnttab_grant_foreign_access(0, pfn_to_gfn(page_to_pfn(foreign->own + (count - 1 - i))), 0);
		if (ref < 0) {
			error = ref;
			goto fail;
		}
		foreign->refs[foreign->granted++] = ref;
		at = pfn_to_kaddr(page_to_pfn(foreign->pages[i]));
		gnttab_set_map_op(&foreign->map[i], (unsigned long)at, GNTMAP_host_map, ref, 0);
	}
	error = gnttab_map_refs(foreign->map, NULL, foreign->pages, count);
	for (i = 0; !error && i < count; i++)
		if (foreign->map[i].status)
			error = -EIO;
	if (error) {
		/* Which of them are mapped is for Xen to know: left as they are. */
		pr_err("swio_lab: foreign pages cannot be mapped: %d\n", error);
		return ERR_PTR(error);
	}
	for (i = 0; i < count; i++)
		gnttab_set_unmap_op(&foreign->unmap[i], (unsigned long)pfn_to_kaddr(page_to_pfn(foreign->pages[i])),
				    GNTMAP_host_map, foreign->map[i].handle);
	*first = foreign->pages[0];
	return foreign;
fail:
	foreign_free(foreign);
	return ERR_PTR(error);
}
#else
struct foreign;

static inline struct foreign *foreign_get(unsigned long count, struct page **first)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static inline void foreign_put(struct foreign *foreign)
{
}
#endif

#endif
