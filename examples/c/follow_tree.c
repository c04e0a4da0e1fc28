/*
 * Follows a process and all that it creates: registers the child of each fork
 * that it is told of.
 *
 *   cc -I crates/kmonitor-signal/include -o follow_tree examples/c/follow_tree.c
 *   ./follow_tree PID [DEVICE]
 *
 * Prints `fork PID` (of the new one), `exec PID`, `abort PID`, `exit PID`, and
 * `gone PID` for one that had ended before it could be registered. Exits with 0
 * when all that it knows of have ended, 1 on an error, 2 on wrong usage.
 *
 * Between a fork and the REGISTER that answers it a process can create others and
 * end. In 2004 those were missed. `kmonitor serve` remembers for 2 seconds what a
 * process did whose birth it told, and tells it after the REGISTER.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kmonitor.h"

enum { LIVE_MAX = 4096 };

static pid_t live[LIVE_MAX];
static int live_count;
static int device_fd;

static int fail(const char *what)
{
	fprintf(stderr, "follow_tree: %s: %s\n", what, strerror(errno));
	return -1;
}

/* Takes one that ended off the list; whether it was on it. */
static int forget(pid_t pid)
{
	for (int at = 0; at < live_count; at++) {
		if (live[at] == pid) {
			live[at] = live[--live_count];
			return 1;
		}
	}
	return 0;
}

static int follow(pid_t pid)
{
	struct kmonitor_cmd cmd = {
		.pid = pid,
		.type = PROCESS_FORK | PROCESS_EXEC | PROCESS_ABORT | PROCESS_EXIT,
		.signal = SIGRTMIN,
	};
	if (live_count == LIVE_MAX) {
		errno = ENOSPC;
		return fail("too many processes");
	}
	if (ioctl(device_fd, KMONITOR_IOW_REGISTER, &cmd) < 0)
		return fail("REGISTER");
	/* REGISTER does not ask whether it exists. One that has gone is told of all
	 * the same if its fork was told; if not, nobody can tell. */
	if (kill(pid, 0) < 0 && errno == ESRCH) {
		printf("gone %d\n", (int)pid);
		return 0;
	}
	live[live_count++] = pid;
	return 0;
}

static int take(const siginfo_t *info)
{
	pid_t pid = info->si_pid;

	switch (info->si_value.sival_int) {
	case PROCESS_FORK:
		printf("fork %d\n", (int)pid);
		return follow(pid);
	case PROCESS_EXEC:
		printf("exec %d\n", (int)pid);
		return 0;
	case PROCESS_ABORT:
		printf("abort %d\n", (int)pid);
		return 0;
	case PROCESS_EXIT:
		/* One that was taken for gone may be told of all the same. */
		if (forget(pid))
			printf("exit %d\n", (int)pid);
		return 0;
	default:
		return 0;
	}
}

int main(int argc, char **argv)
{
	pid_t root;

	if (argc < 2 || argc > 3 || (root = atoi(argv[1])) <= 0) {
		fprintf(stderr, "usage: follow_tree PID [DEVICE]\n");
		return 2;
	}
	const char *device = argc > 2 ? argv[2] : KMONITOR_DEVICE;

	/* Blocked for good: sigwaitinfo() takes them one by one, in order. */
	sigset_t signals;
	sigemptyset(&signals);
	sigaddset(&signals, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &signals, NULL);

	setvbuf(stdout, NULL, _IOLBF, 0);
	device_fd = open(device, O_WRONLY);
	if (device_fd < 0) {
		fail(device);
		return 1;
	}
	if (follow(root) < 0)
		return 1;
	while (live_count > 0) {
		siginfo_t info;

		if (sigwaitinfo(&signals, &info) < 0) {
			if (errno == EINTR)
				continue;
			fail("sigwaitinfo");
			return 1;
		}
		if (info.si_code == SI_QUEUE && take(&info) < 0)
			return 1;
	}
	close(device_fd);
	return 0;
}
