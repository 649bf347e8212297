/*
 * Counts the instructions that an x86-64 program executes between its functions yard_begin and yard_end, by running
 * them one at a time on this machine's own CPU. Slow (a few microseconds each), but it counts what no emulator here knows.
 *
 *     step_count BEGIN END PROGRAM ARGUMENTS...
 *
 * BEGIN and END are the functions' addresses in the file, in hexadecimal. Prints `insns N` after the program's own
 * output. Counting begins when yard_begin returns and ends when yard_end is entered. A repeated string
 * instruction counts once: how often it repeats depends on the C library's choice for this CPU.
 */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static void fail(const char *what)
{
    fprintf(stderr, "step_count: %s: %s\n", what, strerror(errno));
    exit(2);
}

static uint64_t peek_user(pid_t child, size_t offset)
{
    errno = 0;
    long value = ptrace(PTRACE_PEEKUSER, child, offset, NULL);
    if (errno)
        fail("reading a register");
    return (uint64_t)value;
}

#define REGISTER(child, name) peek_user(child, offsetof(struct user_regs_struct, name))

/* Lets the child go on by `request` and waits until it stops; ends this program when the child has ended. */
static void go(pid_t child, int request)
{
    int status;
    if (ptrace(request, child, NULL, NULL) < 0)
        fail("resuming the program");
    if (waitpid(child, &status, 0) < 0)
        fail("waiting for the program");
    if (WIFEXITED(status) || WIFSIGNALED(status)) {
        fprintf(stderr, "step_count: the program ended without passing both marks\n");
        exit(WIFEXITED(status) && WEXITSTATUS(status) ? WEXITSTATUS(status) : 2);
    }
    if (WSTOPSIG(status) != SIGTRAP) {
        fprintf(stderr, "step_count: the program was stopped by signal %d\n", WSTOPSIG(status));
        exit(2);
    }
}

/* Where the program's file was loaded: the address of the first piece of it in memory, less that piece's place. */
static uint64_t load_address(pid_t child, const char *program)
{
    char path[64], line[4352], mapped[4097], wanted[4097];
    snprintf(path, sizeof path, "/proc/%d/maps", child);
    FILE *maps = fopen(path, "r");
    ssize_t length = -1;
    snprintf(path, sizeof path, "/proc/%d/exe", child);
    length = readlink(path, wanted, sizeof wanted - 1);
    if (!maps || length < 0)
        fail(program);
    wanted[length] = '\0';
    while (fgets(line, sizeof line, maps)) {
        uint64_t start, offset;
        if (sscanf(line, "%" SCNx64 "-%*x %*s %" SCNx64 " %*s %*s %4096[^\n]", &start, &offset, mapped) == 3 &&
            !strcmp(mapped, wanted)) {
            fclose(maps);
            return start - offset;
        }
    }
    fprintf(stderr, "step_count: %s is not in the memory of its own process\n", program);
    exit(2);
}

/* Runs to `address`, through a breakpoint that is taken away again. */
static void run_to(pid_t child, uint64_t address)
{
    errno = 0;
    long code = ptrace(PTRACE_PEEKTEXT, child, address, NULL);
    if (errno || ptrace(PTRACE_POKETEXT, child, address, (code & ~0xffL) | 0xcc) < 0)
        fail("setting a breakpoint");
    go(child, PTRACE_CONT);
    if (REGISTER(child, rip) != address + 1) {
        fprintf(stderr, "step_count: stopped at %#" PRIx64 ", not at the mark\n", REGISTER(child, rip));
        exit(2);
    }
    if (ptrace(PTRACE_POKETEXT, child, address, code) < 0 ||
        ptrace(PTRACE_POKEUSER, child, offsetof(struct user_regs_struct, rip), address) < 0)
        fail("taking a breakpoint away");
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "give: BEGIN END PROGRAM ARGUMENTS...\n");
        return 2;
    }
    pid_t child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0)
            execv(argv[3], argv + 3);
        fail(argv[3]);
    }
    int status;
    if (waitpid(child, &status, 0) < 0 || !WIFSTOPPED(status))
        fail(argv[3]);
    ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_EXITKILL);
    uint64_t base = load_address(child, argv[3]);
    uint64_t begin = base + strtoull(argv[1], NULL, 16), end = base + strtoull(argv[2], NULL, 16);
    run_to(child, begin);
    for (uint64_t stack = REGISTER(child, rsp); REGISTER(child, rsp) <= stack;)
        go(child, PTRACE_SINGLESTEP);
    uint64_t insns = 0, at = REGISTER(child, rip);
    while (at != end) {
        uint64_t before = at;
        go(child, PTRACE_SINGLESTEP);
        at = REGISTER(child, rip);
        insns += at != before;
    }
    if (ptrace(PTRACE_CONT, child, NULL, NULL) < 0 || waitpid(child, &status, 0) < 0)
        fail("waiting for the end");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return WIFEXITED(status) ? WEXITSTATUS(status) : 2;
    printf("insns %" PRIu64 "\n", insns);
    return 0;
}
