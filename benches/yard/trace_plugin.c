/*
 * A TCG plugin for qemu-user: what runs between the guest's functions yard_begin and yard_end.
 *
 * Arguments, each NAME=VALUE: trace=FILE, stats=FILE, and l1=SETSxWAYS as often as there are caches to simulate.
 *
 * The trace is one 64-bit word for each executed block: its address relative to yard_begin (so that a program may be
 * loaded anywhere), shifted left by 16, plus its number of instructions. The statistics are lines of a name and
 * numbers: `insns N`, `load_bytes N`, `store_bytes N`, `lost_blocks N`, and `l1 SETS WAYS ACCESSES MISSES` for each cache.
 * The caches have 64-byte lines, replace the least recently used line, start empty and fetch nothing ahead.
 *
 * The plugin interface is declared here as far as it is used, so that no header of QEMU is needed. PLUGIN_API is the
 * version to ask for: 1 up to QEMU 8.1, 2 after; what is used here is the same in both.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef PLUGIN_API
#define PLUGIN_API 1
#endif
#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
struct qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { NO_REGISTERS = 0, READS_AND_WRITES = 3 };
typedef void (*translated_fn)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*executed_fn)(unsigned vcpu, void *data);
typedef void (*memory_fn)(unsigned vcpu, qemu_plugin_meminfo_t, uint64_t address, void *data);
typedef void (*exit_fn)(qemu_plugin_id_t, void *data);
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_fn);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, executed_fn, int, void *);
extern void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, memory_fn, int, int, void *);
extern void qemu_plugin_register_atexit_cb(qemu_plugin_id_t, exit_fn, void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
extern const char *qemu_plugin_insn_symbol(const struct qemu_plugin_insn *);
extern unsigned qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t);
extern bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t);

EXPORT int qemu_plugin_version = PLUGIN_API;

enum { LINE_SHIFT = 6, MAX_CACHES = 8, MAX_BLOCKS = 64 << 20 };

/* A cache: for each way of each set a line number plus one (0 is empty), and when it was last used. */
struct cache {
    unsigned sets, ways;
    uint64_t *lines, *used, accesses, misses;
};

enum mark { NO_MARK, BEGIN, END };

/* A translated block. */
struct block {
    uint64_t address;
    uint64_t insns;
    enum mark mark;
};

static struct cache caches[MAX_CACHES];
static unsigned n_caches;
static const char *stats_path;
static FILE *trace;
static bool counting;
static uint64_t origin, clock_ticks, insns, load_bytes, store_bytes, blocks, lost_blocks;

static void touch(struct cache *cache, uint64_t line)
{
    uint64_t *lines = cache->lines + line % cache->sets * cache->ways;
    uint64_t *used = cache->used + line % cache->sets * cache->ways;
    unsigned oldest = 0;
    cache->accesses++;
    for (unsigned way = 0; way < cache->ways; way++) {
        if (lines[way] == line + 1) {
            used[way] = clock_ticks;
            return;
        }
        if (used[way] < used[oldest])
            oldest = way;
    }
    cache->misses++;
    lines[oldest] = line + 1;
    used[oldest] = clock_ticks;
}

static void on_memory(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *data)
{
    (void)vcpu, (void)data;
    if (!counting)
        return;
    uint64_t size = UINT64_C(1) << qemu_plugin_mem_size_shift(info);
    if (qemu_plugin_mem_is_store(info))
        store_bytes += size;
    else
        load_bytes += size;
    clock_ticks++;
    for (uint64_t line = address >> LINE_SHIFT; line <= (address + size - 1) >> LINE_SHIFT; line++)
        for (unsigned i = 0; i < n_caches; i++)
            touch(&caches[i], line);
}

static void on_block(unsigned vcpu, void *data)
{
    const struct block *block = data;
    (void)vcpu;
    if (block->mark == BEGIN && !origin)
        origin = block->address; /* later ones may lie further inside the function */
    if (block->mark != NO_MARK) {
        counting = block->mark == BEGIN;
        return;
    }
    if (!counting)
        return;
    insns += block->insns;
    if (blocks++ >= MAX_BLOCKS) {
        lost_blocks++;
        return;
    }
    uint64_t word = ((block->address - origin) << 16) | block->insns;
    fwrite(&word, sizeof word, 1, trace);
}

static void on_translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    struct block *block = calloc(1, sizeof *block); /* lives as long as the translation, which may be run for ever */
    struct qemu_plugin_insn *first = qemu_plugin_tb_get_insn(tb, 0);
    const char *symbol = qemu_plugin_insn_symbol(first);
    (void)id;
    block->address = qemu_plugin_insn_vaddr(first);
    block->insns = qemu_plugin_tb_n_insns(tb);
    if (symbol && !strcmp(symbol, "yard_begin"))
        block->mark = BEGIN;
    if (symbol && !strcmp(symbol, "yard_end"))
        block->mark = END;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_block, NO_REGISTERS, block);
    for (size_t i = 0; i < block->insns; i++)
        qemu_plugin_register_vcpu_mem_cb(qemu_plugin_tb_get_insn(tb, i), on_memory, NO_REGISTERS, READS_AND_WRITES, NULL);
}

static void on_exit_of_guest(qemu_plugin_id_t id, void *data)
{
    (void)id, (void)data;
    fclose(trace);
    FILE *stats = fopen(stats_path, "w");
    if (!stats)
        return; /* whoever reads the file will miss it */
    fprintf(stats, "insns %" PRIu64 "\nload_bytes %" PRIu64 "\nstore_bytes %" PRIu64 "\nlost_blocks %" PRIu64 "\n", insns,
            load_bytes, store_bytes, lost_blocks);
    for (unsigned i = 0; i < n_caches; i++)
        fprintf(stats, "l1 %u %u %" PRIu64 " %" PRIu64 "\n", caches[i].sets, caches[i].ways, caches[i].accesses,
                caches[i].misses);
    fclose(stats);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info_t *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        struct cache *cache = &caches[n_caches];
        if (!strncmp(argv[i], "trace=", 6)) {
            trace = fopen(argv[i] + 6, "wb");
        } else if (!strncmp(argv[i], "stats=", 6)) {
            stats_path = argv[i] + 6;
        } else if (n_caches < MAX_CACHES && sscanf(argv[i], "l1=%ux%u", &cache->sets, &cache->ways) == 2) {
            cache->lines = calloc((size_t)cache->sets * cache->ways, sizeof *cache->lines);
            cache->used = calloc((size_t)cache->sets * cache->ways, sizeof *cache->used);
            n_caches++;
        } else {
            fprintf(stderr, "trace_plugin: argument %s; give trace=FILE, stats=FILE, l1=SETSxWAYS\n", argv[i]);
            return -1;
        }
    }
    if (!trace || !stats_path) {
        fprintf(stderr, "trace_plugin: needs trace=FILE that can be written, and stats=FILE\n");
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translated);
    qemu_plugin_register_atexit_cb(id, on_exit_of_guest, NULL);
    return 0;
}
