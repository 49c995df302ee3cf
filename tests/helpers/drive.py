"""A folder that behaves as a mounted drive: no locks, slow renames, no flush of folders."""

import subprocess
from pathlib import Path

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int on_drive(const char *path) {
    const char *drive = getenv("DRIVE");
    return drive && !strncmp(path, drive, strlen(drive));
}
static int is_on_drive(int file) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return on_drive(path);
}
int flock(int file, int operation) {
    if (is_on_drive(file)) { errno = ENOTSUP; return -1; }
    return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(file, operation);
}
int fsync(int file) {
    struct stat found;
    if (is_on_drive(file) && !fstat(file, &found) && S_ISDIR(found.st_mode)) {
        errno = EINVAL;
        return -1;
    }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(file);
}
int rename(const char *from, const char *to) {
    if (on_drive(from)) usleep(1000 * atoi(getenv("DRIVE_MS")));
    return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"))(from, to);
}
int link(const char *from, const char *to) {
    if (on_drive(to)) { errno = EPERM; return -1; }
    return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "link"))(from, to);
}
"""


def mount(drive: Path, milliseconds: int) -> dict[str, str]:
    """Return the environment in which the folder `drive` is a drive whose renames take so long."""
    library = drive.parent / "drive.so"
    command = ["cc", "-shared", "-fPIC", "-o", str(library), "-x", "c", "-", "-ldl"]
    subprocess.run(command, input=SOURCE, text=True, check=True)
    return {"LD_PRELOAD": str(library), "DRIVE": str(drive), "DRIVE_MS": str(milliseconds)}
