/* Kills a process at the N-th system call that changes something under a folder, counted from its first checkpoint on.

       tracer PID FOLDER N

   A write is cut in half first, where the machine is known (x86-64). Prints every such call; exits with 0 where it killed,
   with 3 where the process ended before. PID waits until it is traced. Linux 5.3 or newer. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static pid_t target;
static const char *folder;

static void read_text(unsigned long long address, char *text) {
    struct iovec here = {text, PATH_MAX - 1}, there = {(void *)(unsigned long)address, PATH_MAX - 1};
    ssize_t length = process_vm_readv(target, &here, 1, &there, 1, 0);
    if (length <= 0) { /* near the end of a page that is not followed by another */
        here.iov_len = there.iov_len = 4096 - address % 4096;
        length = process_vm_readv(target, &here, 1, &there, 1, 0);
    }
    text[length > 0 ? length : 0] = 0;
}

static void path_of(int descriptor, char *text) {
    char link[64];
    snprintf(link, sizeof link, "/proc/%d/fd/%d", target, descriptor);
    ssize_t length = readlink(link, text, PATH_MAX - 1);
    text[length > 0 ? length : 0] = 0;
}

static void path_at(int descriptor, unsigned long long address, char *text) {
    char name[PATH_MAX];
    read_text(address, name);
    text[0] = 0;
    if (name[0] != '/' && descriptor != AT_FDCWD) path_of(descriptor, text);
    snprintf(text + strlen(text), PATH_MAX - strlen(text), "%s%s", text[0] ? "/" : "", name);
}

/* Returns the name of a call that changes files, with the path it is about; NULL for all others. */
static const char *changing(const struct __ptrace_syscall_info *info, char *path) {
    const unsigned long long *argument = (const unsigned long long *)info->entry.args;
    const int creates = O_CREAT | O_WRONLY | O_RDWR | O_TRUNC;
    switch (info->entry.nr) {
#ifdef SYS_open
    case SYS_open: path_at(AT_FDCWD, argument[0], path); return argument[1] & creates ? "open" : NULL;
    case SYS_mkdir: path_at(AT_FDCWD, argument[0], path); return "mkdir";
    case SYS_rename: path_at(AT_FDCWD, argument[0], path); return "rename";
    case SYS_unlink: path_at(AT_FDCWD, argument[0], path); return "unlink";
    case SYS_rmdir: path_at(AT_FDCWD, argument[0], path); return "rmdir";
#endif
    case SYS_openat: path_at(argument[0], argument[1], path); return argument[2] & creates ? "open" : NULL;
    case SYS_mkdirat: path_at(argument[0], argument[1], path); return "mkdir";
#ifdef SYS_renameat
    case SYS_renameat: path_at(argument[0], argument[1], path); return "rename";
#endif
    case SYS_renameat2: path_at(argument[0], argument[1], path); return "rename";
    case SYS_unlinkat: path_at(argument[0], argument[1], path); return "unlink";
    case SYS_write: path_of(argument[0], path); return "write";
    case SYS_pwrite64: path_of(argument[0], path); return "write";
    case SYS_writev: path_of(argument[0], path); return "writev";
    case SYS_fsync: path_of(argument[0], path); return "fsync";
    case SYS_fdatasync: path_of(argument[0], path); return "fsync";
    case SYS_ftruncate: path_of(argument[0], path); return "truncate";
    case SYS_close: path_of(argument[0], path); return "close";
    default: return NULL;
    }
}

static int halve(pid_t thread) {
#ifdef __x86_64__
    struct user_regs_struct registers;
    if (ptrace(PTRACE_GETREGS, thread, 0, &registers)) return 0;
    if (registers.rdx < 2) return 0;
    registers.rdx /= 2;
    return ptrace(PTRACE_SETREGS, thread, 0, &registers) == 0;
#else
    (void)thread;
    return 0;
#endif
}

int main(int argc, char **argv) {
    if (argc != 4) return fprintf(stderr, "usage: tracer PID FOLDER N\n"), 2;
    target = atoi(argv[1]);
    folder = argv[2];
    const long wanted = atol(argv[3]);
    const long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_EXITKILL;
    char tasks[64];
    snprintf(tasks, sizeof tasks, "/proc/%d/task", target);
    DIR *directory = opendir(tasks);
    if (!directory) return perror(tasks), 2;
    for (struct dirent *entry; (entry = readdir(directory));) {
        pid_t thread = atoi(entry->d_name);
        if (thread && ptrace(PTRACE_SEIZE, thread, 0, options)) return perror("seize"), 2;
        if (thread) ptrace(PTRACE_INTERRUPT, thread, 0, 0);
    }
    closedir(directory);

    long seen = 0;
    int armed = 0;
    pid_t cut = 0; /* the thread whose write was halved: killed when the call returns */
    for (;;) {
        int status;
        pid_t thread = waitpid(-1, &status, __WALL);
        if (thread < 0) return errno == ECHILD ? 3 : (perror("wait"), 2);
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (thread == target) return cut || seen == wanted ? 0 : 3;
            continue;
        }
        const int event = status >> 16, stop = WSTOPSIG(status);
        int deliver = 0;
        if (stop == (SIGTRAP | 0x80)) {
            struct __ptrace_syscall_info info;
            char path[PATH_MAX];
            const char *name = NULL;
            if (ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof info, &info) > 0) {
                if (info.op == PTRACE_SYSCALL_INFO_ENTRY) name = changing(&info, path);
                if (info.op == PTRACE_SYSCALL_INFO_EXIT && cut == thread) kill(target, SIGKILL);
            }
            if (name && strncmp(path, folder, strlen(folder)) == 0) {
                armed |= strcmp(name, "mkdir") == 0 && strstr(path, ".tmp-step_");
                if (armed) {
                    printf("%ld %s %s\n", ++seen, name, path + strlen(folder));
                    fflush(stdout);
                    if (seen == wanted) {
                        if (strcmp(name, "write") == 0 && halve(thread)) cut = thread;
                        else kill(target, SIGKILL);
                    }
                }
            }
        } else if (event == 0) {
            deliver = stop;
        }
        ptrace(PTRACE_SYSCALL, thread, 0, deliver);
    }
}
