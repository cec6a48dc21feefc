/* A plugin of qemu's user emulation: keeps the number of guest instructions executed so far in a file of
 * eight bytes, which others may read while the program runs. Threads that run at once may lose a few. */
#include <fcntl.h>
#include <stdint.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The part of qemu's plugin interface (version 1) that is used here. */
typedef uint64_t plugin_id;
struct tb;
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct tb *));
extern size_t qemu_plugin_tb_n_insns(const struct tb *);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct tb *, int add, void *, uint64_t);
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

static uint64_t *executed;

static void translated(plugin_id id, struct tb *block)
{
    qemu_plugin_register_vcpu_tb_exec_inline(block, 0, executed, qemu_plugin_tb_n_insns(block));
}

__attribute__((visibility("default"))) int
qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    if (argc != 1 || strncmp(argv[0], "count=", 6))
        return 1;
    int file = open(argv[0] + 6, O_RDWR | O_CREAT, 0600);
    if (file < 0 || ftruncate(file, sizeof *executed))
        return 1;
    executed = mmap(NULL, sizeof *executed, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (executed == MAP_FAILED)
        return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    return 0;
}
