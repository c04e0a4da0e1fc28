/*
 * Makes each of the seven events happen to a child of its own, and checks what
 * it is told of them: the bit, the pid, the uid, the code, and the order.
 *
 *   cc -pthread -I crates/kmonitor-signal/include -o every_event examples/c/every_event.c
 *   ./every_event [DEVICE]
 *
 * Prints a line for each signal and exits with 0 if all seven came, each once
 * for each time that it happened; 1 if not, 2 on wrong usage.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kmonitor.h"

/* What the child is told by one byte, and tells when it is done: a number. */
enum { FORK = 'f', THREAD = 't', END_THREAD = 'e', EXEC = 'x' };

static int requests, answers;
static int device_fd;

static void die(const char *what)
{
	fprintf(stderr, "every_event: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* ---- the child ------------------------------------------------------------ */

static void answer(int number)
{
	if (write(answers, &number, sizeof number) != sizeof number)
		_exit(1);
}

static int thread_gate[2];

static void *thread(void *unused)
{
	char byte;

	answer((int)syscall(SYS_gettid));
	/* The end of this pipe, or death. */
	while (read(thread_gate[0], &byte, 1) < 0 && errno == EINTR)
		;
	return unused;
}

static void child(char *program)
{
	pthread_t last = 0;
	char request;

	while (read(requests, &request, 1) == 1) {
		pid_t pid;

		switch (request) {
		case FORK:
			pid = fork();
			if (pid == 0)
				_exit(0);
			waitpid(pid, NULL, 0);
			answer(pid);
			break;
		case THREAD:
			if (pipe(thread_gate) < 0 || pthread_create(&last, NULL, thread, NULL) != 0)
				_exit(1);
			break; /* the thread answers */
		case END_THREAD:
			close(thread_gate[1]);
			pthread_join(last, NULL);
			close(thread_gate[0]);
			answer(0);
			break;
		case EXEC: {
			char in[16], out[16];

			snprintf(in, sizeof in, "%d", requests);
			snprintf(out, sizeof out, "%d", answers);
			execl("/proc/self/exe", program, "--child", in, out, (char *)NULL);
			_exit(1);
		}
		}
	}
	_exit(0);
}

/* ---- the monitor ---------------------------------------------------------- */

static pid_t target;
static int failures;

static int ask(char request)
{
	int number;

	if (write(requests, &request, 1) != 1 ||
	    read(answers, &number, sizeof number) != sizeof number)
		die("the child does not answer");
	return number;
}

static const char *name(int bit)
{
	switch (bit) {
	case THREAD_CREATE: return "THREAD_CREATE";
	case THREAD_ABORT: return "THREAD_ABORT";
	case THREAD_EXIT: return "THREAD_EXIT";
	case PROCESS_FORK: return "PROCESS_FORK";
	case PROCESS_ABORT: return "PROCESS_ABORT";
	case PROCESS_EXEC: return "PROCESS_EXEC";
	case PROCESS_EXIT: return "PROCESS_EXIT";
	default: return "no event of ours";
	}
}

/* The next signal must be this one. */
static void expect(int bit, pid_t pid)
{
	struct timespec patience = { .tv_sec = 10 };
	sigset_t signals;
	siginfo_t info;

	sigemptyset(&signals);
	sigaddset(&signals, SIGRTMIN + 1);
	while (sigtimedwait(&signals, &info, &patience) < 0) {
		if (errno == EINTR)
			continue;
		printf("missing: %s of %d\n", name(bit), (int)pid);
		failures++;
		return;
	}
	int ok = info.si_value.sival_int == bit && info.si_pid == pid &&
		 info.si_code == SI_QUEUE && info.si_uid == getuid();
	printf("%s: %s pid %d uid %d code %d\n", ok ? "ok" : "WRONG",
	       name(info.si_value.sival_int), (int)info.si_pid, (int)info.si_uid, info.si_code);
	if (!ok) {
		printf("       due was %s of %d\n", name(bit), (int)pid);
		failures++;
	}
}

int main(int argc, char **argv)
{
	if (argc == 4 && strcmp(argv[1], "--child") == 0) {
		requests = atoi(argv[2]);
		answers = atoi(argv[3]);
		answer(0);
		child(argv[0]);
	}
	if (argc > 2) {
		fprintf(stderr, "usage: every_event [DEVICE]\n");
		return 2;
	}
	const char *device = argc > 1 ? argv[1] : KMONITOR_DEVICE;
	setvbuf(stdout, NULL, _IOLBF, 0);

	int to[2], from[2];
	if (pipe(to) < 0 || pipe(from) < 0)
		die("pipe");
	target = fork();
	if (target < 0)
		die("fork");
	if (target == 0) {
		requests = to[0];
		answers = from[1];
		close(to[1]);
		close(from[0]);
		child(argv[0]);
	}
	requests = to[1];
	answers = from[0];
	close(to[0]);
	close(from[1]);

	sigset_t signals;
	sigemptyset(&signals);
	sigaddset(&signals, SIGRTMIN + 1);
	sigprocmask(SIG_BLOCK, &signals, NULL);

	device_fd = open(device, O_WRONLY);
	if (device_fd < 0)
		die(device);
	struct kmonitor_cmd cmd = { target, KMONITOR_ALL_EVENTS, SIGRTMIN + 1 };
	if (ioctl(device_fd, KMONITOR_IOW_REGISTER, &cmd) < 0)
		die("REGISTER");

	expect(PROCESS_FORK, ask(FORK));

	int tid = ask(THREAD);
	expect(THREAD_CREATE, tid);
	ask(END_THREAD);
	expect(THREAD_EXIT, tid);

	ask(EXEC);
	expect(PROCESS_EXEC, target);

	/* A signal ends both of its threads. */
	tid = ask(THREAD);
	expect(THREAD_CREATE, tid);
	kill(target, SIGKILL);
	expect(THREAD_ABORT, tid);
	expect(THREAD_EXIT, tid);
	expect(PROCESS_ABORT, target);
	expect(PROCESS_EXIT, target);
	waitpid(target, NULL, 0);

	/* The record went with the process or goes now; then there is none. */
	(void)ioctl(device_fd, KMONITOR_IOW_DEREGISTER, &cmd);
	if (ioctl(device_fd, KMONITOR_IOW_DEREGISTER, &cmd) == 0 || errno != EINVAL) {
		printf("WRONG: DEREGISTER of what is not registered: %s\n", strerror(errno));
		failures++;
	}
	struct timespec at_once = { 0 };
	if (sigtimedwait(&signals, NULL, &at_once) > 0) {
		printf("WRONG: a signal too many\n");
		failures++;
	}
	close(device_fd);
	printf("%s\n", failures ? "failed" : "all seven events came");
	return failures != 0;
}
