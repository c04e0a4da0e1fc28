/*
 * Waits for the end of any process, as monitors of 2004 did: a handler for
 * SIGRTMIN, REGISTER, and sigsuspend().
 *
 *   cc -I crates/kmonitor-signal/include -o wait_exit examples/c/wait_exit.c
 *   ./wait_exit PID [DEVICE]
 *
 * Exits with 0 when the process has ended, 1 on an error, 2 on wrong usage.
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

static pid_t target;
static volatile sig_atomic_t ended;

static void told(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)context;
	if (info->si_code == SI_QUEUE && info->si_pid == target &&
	    info->si_value.sival_int == PROCESS_EXIT)
		ended = 1;
}

static int fail(const char *what)
{
	fprintf(stderr, "wait_exit: %s: %s\n", what, strerror(errno));
	return 1;
}

int main(int argc, char **argv)
{
	if (argc < 2 || argc > 3 || (target = atoi(argv[1])) <= 0) {
		fprintf(stderr, "usage: wait_exit PID [DEVICE]\n");
		return 2;
	}
	const char *device = argc > 2 ? argv[2] : KMONITOR_DEVICE;

	struct sigaction action = { 0 };
	action.sa_sigaction = told;
	action.sa_flags = SA_SIGINFO;
	sigemptyset(&action.sa_mask);
	if (sigaction(SIGRTMIN, &action, NULL) < 0)
		return fail("sigaction");

	/* Blocked until sigsuspend() waits for it: nothing slips in between. */
	sigset_t blocked, before;
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGRTMIN);
	sigprocmask(SIG_BLOCK, &blocked, &before);
	sigdelset(&before, SIGRTMIN);

	int fd = open(device, O_WRONLY);
	if (fd < 0)
		return fail(device);
	struct kmonitor_cmd cmd = { .pid = target, .type = PROCESS_EXIT, .signal = SIGRTMIN };
	if (ioctl(fd, KMONITOR_IOW_REGISTER, &cmd) < 0)
		return fail("REGISTER");

	/* REGISTER does not ask whether the target exists. */
	if (kill(target, 0) < 0 && errno == ESRCH)
		return fail(argv[1]);

	while (!ended)
		sigsuspend(&before);
	printf("%d ended\n", (int)target);
	close(fd);
	return 0;
}
