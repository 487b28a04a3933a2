/* qemu_count.c - a plugin of qemu-aarch64 that counts the instructions a program runs, by class. Built and loaded by
   aarch64.py. The declarations are those of version 1 of the plugins' interface that we use. */

#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t id_type;
struct tb;
struct insn;
size_t qemu_plugin_tb_n_insns(const struct tb *tb);
struct insn *qemu_plugin_tb_get_insn(const struct tb *tb, size_t index);
const void *qemu_plugin_insn_data(const struct insn *insn);
void qemu_plugin_register_vcpu_tb_trans_cb(id_type id, void (*callback)(id_type id, struct tb *tb));
void qemu_plugin_register_vcpu_insn_exec_inline(struct insn *insn, int add_u64, void *counter, uint64_t number);
void qemu_plugin_register_atexit_cb(id_type id, void (*callback)(id_type id, void *data), void *data);
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { CNT, VECTOR, VECTOR_LOAD, VECTOR_STORE, OTHER, CLASSES };
static uint64_t counts[CLASSES];

static int class_of(uint32_t code) {
    if ((code & 0xBFFFFC00) == 0x0E205800) return CNT;
    if ((code & 0x0E000000) == 0x0E000000) return VECTOR; /* data processing, SIMD and floating point */
    if ((code & 0x0E000000) == 0x0C000000) return code & 1u << 22 ? VECTOR_LOAD : VECTOR_STORE;
    return OTHER;
}

static void translated(id_type id, struct tb *tb) {
    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
        struct insn *insn = qemu_plugin_tb_get_insn(tb, i);
        uint32_t code;
        memcpy(&code, qemu_plugin_insn_data(insn), 4);
        qemu_plugin_register_vcpu_insn_exec_inline(insn, 0, &counts[class_of(code)], 1);
    }
}

static void finished(id_type id, void *data) {
    (void)id, (void)data;
    for (int i = 0; i < CLASSES; i++) fprintf(stderr, "%llu%c", (unsigned long long)counts[i], i < CLASSES - 1 ? ' ' : '\n');
}

__attribute__((visibility("default"))) int qemu_plugin_install(id_type id, const void *info, int argc, char **argv) {
    (void)info, (void)argc, (void)argv;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_atexit_cb(id, finished, NULL);
    return 0;
}
