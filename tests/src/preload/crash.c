/* Preloaded into a gateway: it dies of SIGKILL at the n-th change of a file below the folder CRASH_BELOW, n being CRASH_AT. Changes are
 * files that are opened to be written, bytes, syncs and renames; of the bytes that it dies at, half are written. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_long changes;

static int below(const char *path) {
  const char *folder = getenv("CRASH_BELOW");
  return folder && path && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_below(int file) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t size = readlink(link, path, sizeof path - 1);
  if (size < 0) return 0;
  path[size] = 0;
  return below(path);
}

static int is_over(void) {
  const char *at = getenv("CRASH_AT");
  return at && atomic_fetch_add(&changes, 1) + 1 == strtol(at, NULL, 10);
}

static void end(void) {
  raise(SIGKILL);
}

int open64(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;
  va_end(rest);
  if ((flags & O_ACCMODE) != O_RDONLY && below(path) && is_over()) end();
  return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

ssize_t write(int file, const void *bytes, size_t size) {
  if (size > 0 && is_below(file) && is_over()) {
    syscall(SYS_write, file, bytes, size / 2);
    end();
  }
  return syscall(SYS_write, file, bytes, size);
}

int fsync(int file) {
  if (is_below(file) && is_over()) end();
  return (int)syscall(SYS_fsync, file);
}

int rename(const char *from, const char *to) {
  if (below(to) && is_over()) end();
  return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}
