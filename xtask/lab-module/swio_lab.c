// SPDX-License-Identifier: GPL-2.0
/*
 * swio_lab: a driver for QEMU's `edu` device that maps, syncs, leaks and exhausts on command, and counts exactly what it did.
 *
 * Write commands to /sys/kernel/debug/swio_lab/run, read /sys/kernel/debug/swio_lab/stats. README.md has the words.
 */
#include <linux/completion.h>
#include <linux/cpu.h>
#include <linux/debugfs.h>
#include <linux/dma-mapping.h>
#include <linux/kernel.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/sched.h>
#include <linux/scatterlist.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/version.h>

#include "foreign.h"
#include "own_pool.h"

static uint mask = 64;
module_param(mask, uint, 0444);
MODULE_PARM_DESC(mask, "width of the DMA mask in bits, 1 to 64");

static ulong min_align_mask;
module_param(min_align_mask, ulong, 0444);
MODULE_PARM_DESC(min_align_mask, "address bits a bounce buffer must keep, 0 for none");

static ulong seg_boundary;
module_param(seg_boundary, ulong, 0444);
MODULE_PARM_DESC(seg_boundary, "segment boundary mask, 0 for the bus's own");

static uint pool;
module_param(pool, uint, 0444);
MODULE_PARM_DESC(pool, "slots of a bounce pool of the device's own, 0 for none");

static bool keep_leaks;
module_param(keep_leaks, bool, 0444);
MODULE_PARM_DESC(keep_leaks, "leave what `leak` mapped when the module goes");

/* The most bytes a buffer can have: the largest block the page allocator gives on every kernel here. */
#define BUFFER_MAX ((size_t)PAGE_SIZE << 10)
/* More than the page allocator ever gives at once, so that some are refused. */
#define COHERENT_MAX (BUFFER_MAX << 4)

/* Everything that is counted, once: the members, the stats file and its order. */
#define EACH_COUNT(X)                                                                     \
	X(maps) X(map_bytes) X(maps_failed) X(unmaps) X(unmap_bytes)                      \
	X(resource_maps) X(resource_bytes) X(resource_failed) X(resource_unmaps)          \
	X(sg_maps) X(sg_elements) X(sg_bytes) X(sg_failed) X(sg_unmaps) X(sg_unmapped_elements) \
	X(syncs_for_cpu) X(sync_for_cpu_bytes) X(syncs_for_device) X(sync_for_device_bytes) \
	X(sg_syncs_for_cpu) X(sg_syncs_for_device)                                        \
	X(allocs) X(alloc_bytes) X(allocs_failed) X(frees)

struct counts {
#define MEMBER(name) u64 name;
	EACH_COUNT(MEMBER)
#undef MEMBER
};

enum kind { MAP, SYNC, SG, RESOURCE, COHERENT, LEAK, EXHAUST, TIME, RELEASE, RESET };

static const char *const kinds[] = {
	[MAP] = "map", [SYNC] = "sync", [SG] = "sg", [RESOURCE] = "resource", [COHERENT] = "coherent",
	[LEAK] = "leak", [EXHAUST] = "exhaust", [TIME] = "time", [RELEASE] = "release", [RESET] = "reset",
};

#define ALL_CPUS (-2)
#define THIS_CPU (-1)

struct command {
	enum kind kind;
	unsigned long n, size, spread, offset, window, elements, buffers, part_offset, part_size, batch, attrs;
	bool sync, foreign;
	enum dma_data_direction dir;
	gfp_t zone;
	int cpu;
};

struct buffer {
	struct page *page;
	unsigned int order;
	struct foreign *foreign;
};

struct leak {
	struct list_head list;
	dma_addr_t dma;
	size_t size;
	enum dma_data_direction dir;
	struct buffer buffer;
};

/* One execution of a command, by one task. */
struct run {
	struct lab *lab;
	const struct command *command;
	struct counts counts;
	u64 ns, pairs;
	/* Of the quickest whole batch; 0 if there was none. */
	u64 least_ns_per_pair;
	int error;
	struct task_struct *task;
	struct completion done;
};

struct lab {
	struct pci_dev *pci;
	struct device *dev;
	struct dentry *dir;
	/* One command at a time; guards everything below. */
	struct mutex lock;
	struct counts counts;
	u64 ns, pairs, least_ns_per_pair;
	struct list_head leaks;
	struct own_pool *own;
};

/* The edu device there is. */
static struct lab *the_lab;

/* ---- buffers ---- */

static int get_buffer(struct buffer *buffer, size_t bytes, const struct command *command)
{
	memset(buffer, 0, sizeof(*buffer));
	if (!bytes || bytes > BUFFER_MAX)
		return -EINVAL;
	if (command->foreign) {
		buffer->foreign = foreign_get(DIV_ROUND_UP(bytes, PAGE_SIZE), &buffer->page);
		return PTR_ERR_OR_ZERO(buffer->foreign);
	}
	buffer->order = get_order(bytes);
	buffer->page = alloc_pages(GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN | command->zone, buffer->order);
	return buffer->page ? 0 : -ENOMEM;
}

static void put_buffer(struct buffer *buffer)
{
	if (buffer->foreign)
		foreign_put(buffer->foreign);
	else if (buffer->page)
		__free_pages(buffer->page, buffer->order);
}

static void put_buffers(struct buffer *buffers, unsigned long count)
{
	unsigned long i;

	for (i = 0; buffers && i < count; i++)
		put_buffer(&buffers[i]);
	kvfree(buffers);
}

static struct buffer *get_buffers(const struct command *command, unsigned long count)
{
	struct buffer *buffers = kvcalloc(count, sizeof(*buffers), GFP_KERNEL);
	unsigned long i;
	int error;

	if (!buffers)
		return ERR_PTR(-ENOMEM);
	for (i = 0; i < count; i++) {
		error = get_buffer(&buffers[i], command->offset + command->size + command->spread, command);
		if (error) {
			put_buffers(buffers, i);
			return ERR_PTR(error);
		}
	}
	return buffers;
}

/* The size of the i-th request: `size`, plus something up to `spread` that is the same in every run. */
static size_t size_of(const struct command *command, unsigned long i)
{
	return command->size + (command->spread ? (i * 2654435761UL >> 7) % (command->spread + 1) : 0);
}

/* ---- the calls, each with its counting ---- */

static dma_addr_t map(struct run *run, const struct buffer *buffer, size_t size)
{
	const struct command *command = run->command;
	struct page *page = buffer->page + (command->offset >> PAGE_SHIFT);
	dma_addr_t dma = dma_map_page_attrs(run->lab->dev, page, offset_in_page(command->offset), size, command->dir,
					    command->attrs);

	if (dma_mapping_error(run->lab->dev, dma)) {
		run->counts.maps_failed++;
		return DMA_MAPPING_ERROR;
	}
	run->counts.maps++;
	run->counts.map_bytes += size;
	return dma;
}

static void unmap(struct run *run, dma_addr_t dma, size_t size)
{
	dma_unmap_page_attrs(run->lab->dev, dma, size, run->command->dir, run->command->attrs);
	run->counts.unmaps++;
	run->counts.unmap_bytes += size;
}

static void sync_for_cpu(struct run *run, dma_addr_t dma, size_t size)
{
	dma_sync_single_for_cpu(run->lab->dev, dma, size, run->command->dir);
	run->counts.syncs_for_cpu++;
	run->counts.sync_for_cpu_bytes += size;
}

static void sync_for_device(struct run *run, dma_addr_t dma, size_t size)
{
	dma_sync_single_for_device(run->lab->dev, dma, size, run->command->dir);
	run->counts.syncs_for_device++;
	run->counts.sync_for_device_bytes += size;
}

/* ---- the commands ---- */

/* n maps; at most `window` are live at a time, then the oldest goes. */
static int do_map(struct run *run)
{
	const struct command *command = run->command;
	struct { dma_addr_t dma; size_t size; } *live, *slot;
	struct buffer *buffers = get_buffers(command, command->buffers);
	unsigned long i;

	if (IS_ERR(buffers))
		return PTR_ERR(buffers);
	live = kvcalloc(command->window, sizeof(*live), GFP_KERNEL);
	if (!live) {
		put_buffers(buffers, command->buffers);
		return -ENOMEM;
	}
	for (i = 0; i < command->window; i++)
		live[i].dma = DMA_MAPPING_ERROR;
	for (i = 0; i < command->n + command->window; i++) {
		slot = &live[i % command->window];
		if (slot->dma != DMA_MAPPING_ERROR) {
			if (command->sync)
				sync_for_cpu(run, slot->dma, slot->size);
			unmap(run, slot->dma, slot->size);
			slot->dma = DMA_MAPPING_ERROR;
		}
		if (i < command->n) {
			slot->size = size_of(command, i);
			slot->dma = map(run, &buffers[i % command->buffers], slot->size);
			if (command->sync && slot->dma != DMA_MAPPING_ERROR)
				sync_for_device(run, slot->dma, slot->size);
		}
		cond_resched();
	}
	kvfree(live);
	put_buffers(buffers, command->buffers);
	return 0;
}

/* One mapping, of which a part (the whole if not said) goes n times to the CPU and back. */
static int do_sync(struct run *run)
{
	const struct command *command = run->command;
	size_t part = command->part_size;
	struct buffer buffer;
	unsigned long i;
	dma_addr_t dma;
	int error;

	if (command->part_offset >= command->size)
		return -EINVAL;
	if (!part)
		part = command->size - command->part_offset;
	if (part > command->size - command->part_offset)
		return -EINVAL;
	error = get_buffer(&buffer, command->offset + command->size, command);
	if (error)
		return error;
	dma = map(run, &buffer, command->size);
	if (dma != DMA_MAPPING_ERROR) {
		for (i = 0; i < command->n; i++) {
			sync_for_cpu(run, dma + command->part_offset, part);
			sync_for_device(run, dma + command->part_offset, part);
			cond_resched();
		}
		unmap(run, dma, command->size);
	}
	put_buffer(&buffer);
	return 0;
}

/* n scatterlists of `elements`, each of its own buffer. */
static int do_sg(struct run *run)
{
	const struct command *command = run->command;
	struct device *dev = run->lab->dev;
	struct buffer *buffers = get_buffers(command, command->elements);
	struct scatterlist *element;
	struct sg_table table;
	unsigned long i;
	size_t bytes = 0;
	int error, at;

	if (IS_ERR(buffers))
		return PTR_ERR(buffers);
	error = sg_alloc_table(&table, command->elements, GFP_KERNEL);
	if (error) {
		put_buffers(buffers, command->elements);
		return error;
	}
	for_each_sg(table.sgl, element, command->elements, at) {
		sg_set_page(element, buffers[at].page + (command->offset >> PAGE_SHIFT), size_of(command, at),
			    offset_in_page(command->offset));
		bytes += size_of(command, at);
	}
	for (i = 0; i < command->n; i++) {
		if (!dma_map_sg_attrs(dev, table.sgl, command->elements, command->dir, command->attrs)) {
			run->counts.sg_failed++;
			continue;
		}
		run->counts.sg_maps++;
		run->counts.sg_elements += command->elements;
		run->counts.sg_bytes += bytes;
		if (command->sync) {
			dma_sync_sg_for_cpu(dev, table.sgl, command->elements, command->dir);
			run->counts.sg_syncs_for_cpu++;
			dma_sync_sg_for_device(dev, table.sgl, command->elements, command->dir);
			run->counts.sg_syncs_for_device++;
		}
		dma_unmap_sg_attrs(dev, table.sgl, command->elements, command->dir, command->attrs);
		run->counts.sg_unmaps++;
		run->counts.sg_unmapped_elements += command->elements;
		cond_resched();
	}
	sg_free_table(&table);
	put_buffers(buffers, command->elements);
	return 0;
}

/* n mappings of the device's own registers. */
static int do_resource(struct run *run)
{
	const struct command *command = run->command;
	struct device *dev = run->lab->dev;
	phys_addr_t start = pci_resource_start(run->lab->pci, 0);
	unsigned long i;
	dma_addr_t dma;

	if (command->size > pci_resource_len(run->lab->pci, 0))
		return -EINVAL;
	for (i = 0; i < command->n; i++) {
		dma = dma_map_resource(dev, start, command->size, command->dir, command->attrs);
		if (dma_mapping_error(dev, dma)) {
			run->counts.resource_failed++;
			continue;
		}
		run->counts.resource_maps++;
		run->counts.resource_bytes += command->size;
		dma_unmap_resource(dev, dma, command->size, command->dir, command->attrs);
		run->counts.resource_unmaps++;
		cond_resched();
	}
	return 0;
}

/* n coherent buffers, at most `window` at a time. */
static int do_coherent(struct run *run)
{
	const struct command *command = run->command;
	struct device *dev = run->lab->dev;
	struct { void *at; dma_addr_t dma; } *live, *slot;
	unsigned long i;

	live = kvcalloc(command->window, sizeof(*live), GFP_KERNEL);
	if (!live)
		return -ENOMEM;
	for (i = 0; i < command->n + command->window; i++) {
		slot = &live[i % command->window];
		if (slot->at) {
			dma_free_coherent(dev, command->size, slot->at, slot->dma);
			run->counts.frees++;
			slot->at = NULL;
		}
		if (i < command->n) {
			slot->at = dma_alloc_coherent(dev, command->size, &slot->dma, GFP_KERNEL | __GFP_NOWARN);
			if (slot->at) {
				run->counts.allocs++;
				run->counts.alloc_bytes += command->size;
			} else {
				run->counts.allocs_failed++;
			}
		}
		cond_resched();
	}
	kvfree(live);
	return 0;
}

/* n mappings that stay until `release` or the module's end. */
static int do_leak(struct run *run)
{
	const struct command *command = run->command;
	struct leak *leak;
	unsigned long i;
	int error;

	for (i = 0; i < command->n; i++) {
		leak = kzalloc(sizeof(*leak), GFP_KERNEL);
		if (!leak)
			return -ENOMEM;
		error = get_buffer(&leak->buffer, command->offset + command->size, command);
		if (error) {
			kfree(leak);
			return error;
		}
		leak->size = command->size;
		leak->dir = command->dir;
		leak->dma = map(run, &leak->buffer, leak->size);
		if (leak->dma == DMA_MAPPING_ERROR) {
			put_buffer(&leak->buffer);
			kfree(leak);
			continue;
		}
		list_add_tail(&leak->list, &run->lab->leaks);
	}
	return 0;
}

static void release_leaks(struct lab *lab, struct counts *counts)
{
	struct leak *leak, *next;

	list_for_each_entry_safe(leak, next, &lab->leaks, list) {
		dma_unmap_page(lab->dev, leak->dma, leak->size, leak->dir);
		counts->unmaps++;
		counts->unmap_bytes += leak->size;
		put_buffer(&leak->buffer);
		list_del(&leak->list);
		kfree(leak);
	}
}

/* Maps until refused, or n times; then undoes all. */
static int do_exhaust(struct run *run)
{
	const struct command *command = run->command;
	struct buffer buffer;
	unsigned long i;
	dma_addr_t *live;
	int error = get_buffer(&buffer, command->offset + command->size, command);

	if (error)
		return error;
	live = kvcalloc(command->n, sizeof(*live), GFP_KERNEL);
	if (!live) {
		put_buffer(&buffer);
		return -ENOMEM;
	}
	for (i = 0; i < command->n; i++) {
		live[i] = map(run, &buffer, command->size);
		if (live[i] == DMA_MAPPING_ERROR)
			break;
		cond_resched();
	}
	while (i--) {
		unmap(run, live[i], command->size);
		cond_resched();
	}
	kvfree(live);
	put_buffer(&buffer);
	return 0;
}

/* The lesser of two figures, of which 0 is none. */
static u64 lesser(u64 a, u64 b)
{
	return !a || (b && b < a) ? b : a;
}

/*
 * n pairs of map and unmap, as fast as they go; only the pairs are timed. A batch is over before the next tick if it is
 * small enough, so the quickest of many is one that nothing came between.
 */
static int do_time(struct run *run)
{
	const struct command *command = run->command;
	struct device *dev = run->lab->dev;
	unsigned long i = 0, batch, done;
	struct buffer buffer;
	struct page *page;
	dma_addr_t dma;
	u64 start, ns;
	int error = get_buffer(&buffer, command->offset + command->size, command);

	if (error)
		return error;
	page = buffer.page + (command->offset >> PAGE_SHIFT);
	while (i < command->n) {
		batch = min(command->n - i, command->batch);
		done = 0;
		start = ktime_get_ns();
		for (i += batch; batch; batch--) {
			dma = dma_map_page_attrs(dev, page, offset_in_page(command->offset), command->size,
						 command->dir, command->attrs);
			if (unlikely(dma_mapping_error(dev, dma))) {
				run->counts.maps_failed++;
				continue;
			}
			dma_unmap_page_attrs(dev, dma, command->size, command->dir, command->attrs);
			done++;
		}
		ns = ktime_get_ns() - start;
		run->ns += ns;
		run->pairs += done;
		/* A refusal costs something else than a pair, and of a few pairs reading the clock is a large part. */
		if (done == command->batch)
			run->least_ns_per_pair = lesser(run->least_ns_per_pair, div64_u64(ns, done));
		cond_resched();
	}
	run->counts.maps += run->pairs;
	run->counts.unmaps += run->pairs;
	run->counts.map_bytes += run->pairs * command->size;
	run->counts.unmap_bytes += run->pairs * command->size;
	put_buffer(&buffer);
	return 0;
}

static void execute(struct run *run)
{
	switch (run->command->kind) {
	case MAP: run->error = do_map(run); break;
	case SYNC: run->error = do_sync(run); break;
	case SG: run->error = do_sg(run); break;
	case RESOURCE: run->error = do_resource(run); break;
	case COHERENT: run->error = do_coherent(run); break;
	case LEAK: run->error = do_leak(run); break;
	case EXHAUST: run->error = do_exhaust(run); break;
	case TIME: run->error = do_time(run); break;
	case RELEASE: release_leaks(run->lab, &run->counts); break;
	case RESET: break;
	}
}

/* ---- running a command here, on a CPU, or on all ---- */

static int run_in_thread(void *data)
{
	struct run *run = data;

	execute(run);
	complete(&run->done);
	/* kthread_stop() is told to wait for us, so that the module's text outlives the thread. */
	set_current_state(TASK_INTERRUPTIBLE);
	while (!kthread_should_stop()) {
		schedule();
		set_current_state(TASK_INTERRUPTIBLE);
	}
	__set_current_state(TASK_RUNNING);
	return 0;
}

static int run_on(struct lab *lab, struct run *runs, int cpu)
{
	struct run *run;
	int one, error = 0;

	for_each_online_cpu(one) {
		run = &runs[one];
		if (cpu != ALL_CPUS && cpu != one)
			continue;
		init_completion(&run->done);
		run->task = kthread_create(run_in_thread, run, "swio_lab/%d", one);
		if (IS_ERR(run->task)) {
			error = PTR_ERR(run->task);
			run->task = NULL;
			break;
		}
		/* Held beyond the thread's end, which kthread_stop() asks of its caller. */
		get_task_struct(run->task);
		kthread_bind(run->task, one);
	}
	for_each_possible_cpu(one)
		if (runs[one].task)
			wake_up_process(runs[one].task);
	for_each_possible_cpu(one) {
		if (!runs[one].task)
			continue;
		wait_for_completion(&runs[one].done);
		kthread_stop(runs[one].task);
		put_task_struct(runs[one].task);
	}
	return error;
}

static void add_counts(struct counts *to, const struct counts *from)
{
#define ADD(name) to->name += from->name;
	EACH_COUNT(ADD)
#undef ADD
}

static int run_command(struct lab *lab, const struct command *command)
{
	struct run *runs;
	int cpu, error = 0;

	if (command->kind == RESET) {
		if (!list_empty(&lab->leaks))
			return -EBUSY;
		memset(&lab->counts, 0, sizeof(lab->counts));
		lab->ns = lab->pairs = lab->least_ns_per_pair = 0;
		return 0;
	}
	/* The list of leaks is not for several at once. */
	if ((command->kind == LEAK || command->kind == RELEASE) && command->cpu == ALL_CPUS)
		return -EINVAL;
	runs = kcalloc(nr_cpu_ids, sizeof(*runs), GFP_KERNEL);
	if (!runs)
		return -ENOMEM;
	for (cpu = 0; cpu < nr_cpu_ids; cpu++) {
		runs[cpu].lab = lab;
		runs[cpu].command = command;
	}
	if (command->cpu == THIS_CPU) {
		execute(&runs[0]);
	} else {
		cpus_read_lock();
		if (command->cpu == ALL_CPUS || (command->cpu < nr_cpu_ids && cpu_online(command->cpu)))
			error = run_on(lab, runs, command->cpu);
		else
			error = -EINVAL;
		cpus_read_unlock();
	}
	if (command->kind == TIME)
		lab->ns = lab->pairs = lab->least_ns_per_pair = 0;
	for (cpu = 0; cpu < nr_cpu_ids; cpu++) {
		add_counts(&lab->counts, &runs[cpu].counts);
		lab->ns += runs[cpu].ns;
		lab->pairs += runs[cpu].pairs;
		lab->least_ns_per_pair = lesser(lab->least_ns_per_pair, runs[cpu].least_ns_per_pair);
		if (!error)
			error = runs[cpu].error;
	}
	kfree(runs);
	return error;
}

/* ---- reading commands ---- */

static int read_direction(const char *word, enum dma_data_direction *dir)
{
	if (!strcmp(word, "to"))
		*dir = DMA_TO_DEVICE;
	else if (!strcmp(word, "from"))
		*dir = DMA_FROM_DEVICE;
	else if (!strcmp(word, "both"))
		*dir = DMA_BIDIRECTIONAL;
	else
		return -EINVAL;
	return 0;
}

static int read_cpu(const char *word, int *cpu)
{
	if (!strcmp(word, "all")) {
		*cpu = ALL_CPUS;
		return 0;
	}
	return kstrtoint(word, 10, cpu) ?: *cpu < 0 ? -EINVAL : 0;
}

/* A number, with k, m or g behind it if need be. */
static int read_number(const char *word, unsigned long *number)
{
	char *end;

	*number = memparse(word, &end);
	return end == word || *end ? -EINVAL : 0;
}

static int read_setting(struct command *command, const char *key, const char *value)
{
	const struct { const char *key; unsigned long *number; } numbers[] = {
		{ "n", &command->n }, { "size", &command->size }, { "spread", &command->spread },
		{ "offset", &command->offset }, { "window", &command->window }, { "elements", &command->elements },
		{ "buffers", &command->buffers }, { "part_offset", &command->part_offset },
		{ "part_size", &command->part_size }, { "batch", &command->batch },
	};
	size_t i;

	for (i = 0; i < ARRAY_SIZE(numbers); i++)
		if (!strcmp(key, numbers[i].key))
			return read_number(value, numbers[i].number);
	if (!strcmp(key, "dir"))
		return read_direction(value, &command->dir);
	if (!strcmp(key, "cpu"))
		return read_cpu(value, &command->cpu);
	if (!strcmp(key, "sync"))
		return kstrtobool(value, &command->sync);
	if (!strcmp(key, "foreign"))
		return kstrtobool(value, &command->foreign);
	if (!strcmp(key, "skip_sync")) {
		command->attrs = DMA_ATTR_SKIP_CPU_SYNC;
		return strcmp(value, "1") ? -EINVAL : 0;
	}
	if (!strcmp(key, "zone")) {
		command->zone = GFP_DMA32;
		return strcmp(value, "dma32") ? -EINVAL : 0;
	}
	return -EINVAL;
}

static int read_command(char *line, struct command *command)
{
	char *word, *value;
	size_t largest;
	int error, kind;

	*command = (struct command){ .n = 1, .size = PAGE_SIZE, .window = 1, .elements = 1, .buffers = 1,
				     .batch = 1024, .dir = DMA_TO_DEVICE, .cpu = THIS_CPU };
	word = strsep(&line, " ");
	kind = match_string(kinds, ARRAY_SIZE(kinds), word);
	if (kind < 0)
		return -EINVAL;
	command->kind = kind;
	while ((word = strsep(&line, " "))) {
		if (!*word)
			continue;
		value = strchr(word, '=');
		if (!value)
			return -EINVAL;
		*value++ = 0;
		error = read_setting(command, word, value);
		if (error)
			return error;
	}
	largest = command->kind == COHERENT ? COHERENT_MAX : BUFFER_MAX;
	if (!command->size || command->size > largest || command->offset > BUFFER_MAX || command->spread > BUFFER_MAX ||
	    !command->window || command->window > 1 << 20 || !command->buffers || command->buffers > 1 << 16 ||
	    !command->elements || command->elements > 4096 || command->n > 1UL << 32 || !command->batch)
		return -EINVAL;
	return 0;
}

static ssize_t write_run(struct file *file, const char __user *from, size_t bytes, loff_t *pos)
{
	struct lab *lab = file->private_data;
	struct command command;
	char *text, *rest, *line;
	int error = 0;

	if (bytes > PAGE_SIZE)
		return -E2BIG;
	text = memdup_user_nul(from, bytes);
	if (IS_ERR(text))
		return PTR_ERR(text);
	rest = text;
	mutex_lock(&lab->lock);
	while (!error && (line = strsep(&rest, "\n;"))) {
		line = strim(line);
		if (!*line)
			continue;
		error = read_command(line, &command) ?: run_command(lab, &command);
		if (error)
			dev_err(lab->dev, "`%s` failed: %d\n", line, error);
	}
	mutex_unlock(&lab->lock);
	kfree(text);
	return error ?: bytes;
}

static const struct file_operations run_file = {
	.owner = THIS_MODULE,
	.open = simple_open,
	.write = write_run,
};

static int stats_show(struct seq_file *out, void *unused)
{
	struct lab *lab = out->private;
	struct counts *c = &lab->counts;

	mutex_lock(&lab->lock);
#define SHOW(name) seq_printf(out, #name " %llu\n", c->name);
	EACH_COUNT(SHOW)
#undef SHOW
	seq_printf(out, "live_maps %llu\n", c->maps - c->unmaps);
	seq_printf(out, "live_bytes %llu\n", c->map_bytes - c->unmap_bytes);
	seq_printf(out, "live_sg %llu\n", c->sg_maps - c->sg_unmaps);
	seq_printf(out, "live_allocs %llu\n", c->allocs - c->frees);
	seq_printf(out, "timed_ns %llu\ntimed_pairs %llu\n", lab->ns, lab->pairs);
	seq_printf(out, "ns_per_pair %llu\n", lab->pairs ? div64_u64(lab->ns, lab->pairs) : 0);
	seq_printf(out, "least_ns_per_pair %llu\n", lab->least_ns_per_pair);
	mutex_unlock(&lab->lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(stats);

/* ---- the device ---- */

static int probe(struct pci_dev *pci, const struct pci_device_id *id)
{
	struct lab *lab;
	int error;

	if (the_lab)
		return -EBUSY;
	lab = devm_kzalloc(&pci->dev, sizeof(*lab), GFP_KERNEL);
	if (!lab)
		return -ENOMEM;
	error = pcim_enable_device(pci);
	if (error)
		return error;
	lab->pci = pci;
	lab->dev = &pci->dev;
	mutex_init(&lab->lock);
	INIT_LIST_HEAD(&lab->leaks);
	error = dma_set_mask_and_coherent(lab->dev, DMA_BIT_MASK(mask));
	if (error)
		return dev_err_probe(lab->dev, error, "no DMA mask of %u bits\n", mask);
	if (min_align_mask)
		dma_set_min_align_mask(lab->dev, min_align_mask);
	if (seg_boundary)
		dma_set_seg_boundary(lab->dev, seg_boundary);
	/* Elements larger than the 64 KiB a device has by default are our own business. */
	dma_set_max_seg_size(lab->dev, UINT_MAX);
	if (pool) {
		lab->own = own_pool_get(lab->dev, pool);
		if (IS_ERR(lab->own))
			return dev_err_probe(lab->dev, PTR_ERR(lab->own), "no pool of %u slots\n", pool);
	}
	pci_set_drvdata(pci, lab);
	the_lab = lab;
	lab->dir = debugfs_create_dir("swio_lab", NULL);
	debugfs_create_file("run", 0200, lab->dir, lab, &run_file);
	debugfs_create_file("stats", 0400, lab->dir, lab, &stats_fops);
	return 0;
}

static void remove(struct pci_dev *pci)
{
	struct lab *lab = pci_get_drvdata(pci);

	debugfs_remove_recursive(lab->dir);
	/* Kept leaks keep their buffers too, which a device could still write to. */
	if (!keep_leaks)
		release_leaks(lab, &lab->counts);
	/* Its slots may still be held otherwise. */
	if (lab->own && list_empty(&lab->leaks))
		own_pool_put(lab->dev, lab->own);
	the_lab = NULL;
}

static const struct pci_device_id devices[] = {
	{ PCI_DEVICE(0x1234, 0x11e8) },
	{}
};
MODULE_DEVICE_TABLE(pci, devices);

static struct pci_driver driver = {
	.name = "swio_lab",
	.id_table = devices,
	.probe = probe,
	.remove = remove,
};

static int __init begin(void)
{
	if (mask < 1 || mask > 64)
		return -EINVAL;
	return pci_register_driver(&driver);
}
module_init(begin);

static void __exit end(void)
{
	pci_unregister_driver(&driver);
}
module_exit(end);

MODULE_DESCRIPTION("DMA mappings on command, exactly counted, for swioscope's lab");
MODULE_LICENSE("GPL");
