/* A process that keeps waiting whoever reads what it has mapped as "/...": test_slabctl_silent.py.
 *
 *     silent fault FILE     a page of FILE that userfaultfd is to fill, and nobody does: who reads it may be killed
 *     silent file FOLDER    a file of a FUSE file system at FOLDER, in a mount namespace of its own, that answers to
 *                           everything but READ: who reads it does not end before this process does */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BYTES = 8192 };

static void need(bool is_so, const char *what)
{
    if (is_so)
        return;
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

static void fault_make(const char *path)
{
    int faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    struct uffdio_api api = {.api = UFFD_API};
    need(faults >= 0 && ioctl(faults, UFFDIO_API, &api) == 0, "userfaultfd");
    int file = open(path, O_RDWR | O_CREAT, 0600);
    need(file >= 0 && ftruncate(file, BYTES) == 0, path);
    void *at = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    need(at != MAP_FAILED, "mmap");
    struct uffdio_register range = {.range = {(uintptr_t)at, BYTES}, .mode = UFFDIO_REGISTER_MODE_MISSING};
    need(ioctl(faults, UFFDIO_REGISTER, &range) == 0, "UFFDIO_REGISTER");
}

static int device;

static void reply(uint64_t request, int error, const void *data, size_t bytes)
{
    char message[256];
    struct fuse_out_header head = {.len = (uint32_t)(sizeof head + bytes), .error = error, .unique = request};
    memcpy(message, &head, sizeof head);
    if (bytes)
        memcpy(message + sizeof head, data, bytes);
    need(write(device, message, head.len) == (ssize_t)head.len, "FUSE: reply");
}

static void *file_serve(void *unused)
{
    static _Alignas(8) char message[1 << 20];
    (void)unused;
    for (;;) {
        ssize_t count = read(device, message, sizeof message);
        const struct fuse_in_header *head = (const void *)message;
        if (count < 0 && errno != EINTR)
            return NULL;
        if (count < (ssize_t)sizeof *head)
            continue;
        struct fuse_attr what = {.ino = head->nodeid, .mode = S_IFDIR | 0755, .nlink = 1, .size = BYTES};
        if (head->opcode == FUSE_LOOKUP)
            what.ino = 2;
        if (what.ino != 1)
            what.mode = S_IFREG | 0755;
        struct fuse_init_out init = {.major = 7, .minor = 31, .max_write = 4096};
        struct fuse_attr_out attributes = {.attr = what};
        struct fuse_entry_out entry = {.nodeid = 2, .attr = what};
        struct fuse_open_out opened = {0};
        if (head->opcode == FUSE_INIT)
            reply(head->unique, 0, &init, sizeof init);
        else if (head->opcode == FUSE_GETATTR)
            reply(head->unique, 0, &attributes, sizeof attributes);
        else if (head->opcode == FUSE_LOOKUP)
            reply(head->unique, 0, &entry, sizeof entry);
        else if (head->opcode == FUSE_OPEN)
            reply(head->unique, 0, &opened, sizeof opened);
        else if (head->opcode != FUSE_READ && head->opcode != FUSE_FORGET && head->opcode != FUSE_INTERRUPT)
            reply(head->unique, -ENOSYS, NULL, 0);
    }
}

static void file_make(const char *folder)
{
    char text[4096];
    pthread_t thread;
    /* In a chroot only the folder's file system is a mount. */
    need(unshare(CLONE_NEWNS) == 0 && (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 ||
                                       mount(NULL, "/dev/shm", NULL, MS_PRIVATE, NULL) == 0),
         "unshare");
    device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    need(device >= 0, "/dev/fuse");
    snprintf(text, sizeof text, "fd=%d,rootmode=40755,user_id=0,group_id=0", device);
    need(mount("silent", folder, "fuse", MS_NOSUID | MS_NODEV, text) == 0, "mount");
    need(pthread_create(&thread, NULL, file_serve, NULL) == 0, "pthread_create");
    snprintf(text, sizeof text, "%s/file", folder);
    int file = open(text, O_RDONLY | O_CLOEXEC);
    need(file >= 0 && mmap(NULL, BYTES, PROT_READ, MAP_PRIVATE, file, 0) != MAP_FAILED, text);
    close(file); /* at the end of this process there would be nobody to answer to that */
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    if (strcmp(argv[1], "fault") == 0)
        fault_make(argv[2]);
    else
        file_make(argv[2]);
    puts("ready");
    fflush(stdout);
    while (getchar() >= 0)
        ;
    return 0;
}
