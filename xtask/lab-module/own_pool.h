/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A bounce pool of the device's own, as one that a device tree restricts has: everything bounces, into these slots alone. The
 * allocator is the kernel's; only the memory is ours. Members and their meaning are as the running kernel's types have them.
 */
#ifndef SWIO_LAB_OWN_POOL_H
#define SWIO_LAB_OWN_POOL_H

#include <linux/device.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/slab.h>
#include <linux/swiotlb.h>
#include <linux/version.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 0, 0) && IS_ENABLED(CONFIG_SWIOTLB)

#define SLOT_SHIFT 11
/* Slots in a segment, the longest run. */
#define SEGMENT 128

/* These two the headers keep to themselves. */
struct own_area {
	unsigned long used;
	unsigned int index;
	spinlock_t lock;
};

struct own_slot {
	phys_addr_t orig_addr;
	size_t alloc_size;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
	unsigned short list;
	unsigned short pad_slots;
#else
	unsigned int list;
#endif
};

struct own_pool {
	struct io_tlb_mem mem;
	struct io_tlb_mem *before;
	struct own_area area;
	struct own_slot *slots;
	struct page *pages;
	unsigned int order;
};

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
#define OWN(pool, member) ((pool)->mem.defpool.member)
#else
#define OWN(pool, member) ((pool)->mem.member)
#endif

static void own_pool_free(struct own_pool *pool)
{
	if (pool->pages)
		__free_pages(pool->pages, pool->order);
	kvfree(pool->slots);
	kfree(pool);
}

/* Gives a device a pool of so many slots, a multiple of 128 of at most 2048. */
static struct own_pool *own_pool_get(struct device *dev, unsigned int slots)
{
	struct own_pool *pool;
	unsigned int i;

	if (slots % SEGMENT || slots > 2048)
		return ERR_PTR(-EINVAL);
	pool = kzalloc(sizeof(*pool), GFP_KERNEL);
	if (!pool)
		return ERR_PTR(-ENOMEM);
	pool->order = get_order((size_t)slots << SLOT_SHIFT);
	pool->pages = alloc_pages(GFP_KERNEL | __GFP_ZERO, pool->order);
	pool->slots = kvcalloc(slots, sizeof(*pool->slots), GFP_KERNEL);
	if (!pool->pages || !pool->slots) {
		own_pool_free(pool);
		return ERR_PTR(-ENOMEM);
	}
	spin_lock_init(&pool->area.lock);
	for (i = 0; i < slots; i++) {
		pool->slots[i].list = SEGMENT - i % SEGMENT;
		pool->slots[i].orig_addr = ~(phys_addr_t)0;
	}
	OWN(pool, start) = page_to_phys(pool->pages);
	OWN(pool, end) = OWN(pool, start) + ((phys_addr_t)slots << SLOT_SHIFT);
	OWN(pool, vaddr) = page_address(pool->pages);
	OWN(pool, nslabs) = slots;
	OWN(pool, nareas) = 1;
	OWN(pool, area_nslabs) = slots;
	OWN(pool, areas) = (void *)&pool->area;
	OWN(pool, slots) = (void *)pool->slots;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	pool->mem.nslabs = slots;
#endif
	pool->mem.force_bounce = true;
	pool->before = dev->dma_io_tlb_mem;
	dev->dma_io_tlb_mem = &pool->mem;
	return pool;
}

/* Takes it away again; nothing may be mapped. */
static void own_pool_put(struct device *dev, struct own_pool *pool)
{
	dev->dma_io_tlb_mem = pool->before;
	own_pool_free(pool);
}

#else

struct own_pool;

static struct own_pool *own_pool_get(struct device *dev, unsigned int slots)
{
	return ERR_PTR(-EOPNOTSUPP);
}

static void own_pool_put(struct device *dev, struct own_pool *pool)
{
}

#endif
#endif
