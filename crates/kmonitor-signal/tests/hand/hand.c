/*
 * Does with the device what a test says, one line on stdin each, and answers
 * each with one line on stdout: `ok [NUMBER]`, `errno NUMBER`, or what is said
 * below. Signals SIGRTMIN to SIGRTMAX are blocked, and taken by `next`.
 *
 *   open PATH FLAGS          ok FD
 *   ioctl FD NUMBER PID TYPE SIGNAL
 *   threadioctl ...          the same by a thread that is not the first
 *   pointer FD NUMBER ADDR   ioctl with this pointer
 *   close FD, dup FD, read FD, write FD, chmod PATH MODE
 *   opens PATH COUNT         opens so many, ok COUNT or errno and how many there were
 *   closeall FD              closes all from FD upwards
 *   fork                     a child that holds all files until `endfork`: ok PID
 *   childioctl ...           a child does the ioctl and ends
 *   storm FD COUNT SEED      so many random ioctls; ok with how many did not fail
 *   next                     signal NUMBER PID INT CODE UID, or none after ten seconds
 *   none                     none, or the signal there is
 *   handle NUMBER            catches the signal with a handler that does nothing
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct cmd {
	pid_t pid;
	int type;
	int signal;
};

static void result(long value)
{
	if (value < 0)
		printf("errno %d\n", errno);
	else
		printf("ok %ld\n", value);
}

struct call {
	int fd;
	unsigned long number;
	struct cmd cmd;
	int result, error;
};

static void *call(void *argument)
{
	struct call *it = argument;

	it->result = ioctl(it->fd, it->number, &it->cmd);
	it->error = errno;
	return NULL;
}

static void take(int seconds)
{
	struct timespec patience = { .tv_sec = seconds };
	siginfo_t info;
	sigset_t all;
	int signal;

	sigemptyset(&all);
	for (signal = SIGRTMIN; signal <= SIGRTMAX; signal++)
		sigaddset(&all, signal);
	while ((signal = sigtimedwait(&all, &info, &patience)) < 0 && errno == EINTR)
		;
	if (signal < 0)
		printf("none\n");
	else
		printf("signal %d %d %d %d %d\n", signal, (int)info.si_pid,
		       info.si_value.sival_int, info.si_code, (int)info.si_uid);
}

static uint64_t state;

static uint64_t random_number(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static void nothing(int signal)
{
	(void)signal;
}

int main(void)
{
	static char line[4096], path[4096];
	static unsigned char space[1 << 16];
	struct call it;
	int gate[2] = { -1, -1 };
	long a, b, c;
	sigset_t all;
	int signal;

	setvbuf(stdout, NULL, _IOLBF, 0);
	sigemptyset(&all);
	for (signal = SIGRTMIN; signal <= SIGRTMAX; signal++)
		sigaddset(&all, signal);
	sigprocmask(SIG_BLOCK, &all, NULL);

	while (fgets(line, sizeof line, stdin)) {
		memset(&it, 0, sizeof it);
		if (sscanf(line, "open %4095s %li", path, &a) == 2) {
			result(open(path, (int)a));
		} else if (sscanf(line, "ioctl %d %li %d %i %d", &it.fd, (long *)&it.number,
				  &it.cmd.pid, &it.cmd.type, &it.cmd.signal) == 5) {
			result(ioctl(it.fd, it.number, &it.cmd));
		} else if (sscanf(line, "threadioctl %d %li %d %i %d", &it.fd, (long *)&it.number,
				  &it.cmd.pid, &it.cmd.type, &it.cmd.signal) == 5) {
			pthread_t thread;

			pthread_create(&thread, NULL, call, &it);
			pthread_join(thread, NULL);
			errno = it.error;
			result(it.result);
		} else if (sscanf(line, "childioctl %d %li %d %i %d", &it.fd, (long *)&it.number,
				  &it.cmd.pid, &it.cmd.type, &it.cmd.signal) == 5) {
			int status;
			pid_t pid = fork();

			if (pid == 0)
				_exit(ioctl(it.fd, it.number, &it.cmd) < 0 ? errno : 0);
			waitpid(pid, &status, 0);
			printf("ok %d\n", WEXITSTATUS(status));
		} else if (sscanf(line, "pointer %d %li %li", &it.fd, &a, &b) == 3) {
			result(ioctl(it.fd, (unsigned long)a, (void *)b));
		} else if (sscanf(line, "close %d", &it.fd) == 1) {
			result(close(it.fd));
		} else if (sscanf(line, "dup %d", &it.fd) == 1) {
			result(dup(it.fd));
		} else if (sscanf(line, "read %d", &it.fd) == 1) {
			result(read(it.fd, space, 1));
		} else if (sscanf(line, "write %d", &it.fd) == 1) {
			result(write(it.fd, space, sizeof space));
		} else if (sscanf(line, "chmod %4095s %li", path, &a) == 2) {
			result(chmod(path, (mode_t)a));
		} else if (sscanf(line, "opens %4095s %li", path, &a) == 2) {
			for (b = 0; b < a && open(path, O_WRONLY) >= 0; b++)
				;
			if (b < a)
				printf("errno %d after %ld\n", errno, b);
			else
				printf("ok %ld\n", b);
		} else if (sscanf(line, "closeall %d", &it.fd) == 1) {
			result(close_range((unsigned)it.fd, ~0U, 0));
		} else if (strcmp(line, "fork\n") == 0) {
			pid_t pid = -1;

			if (pipe(gate) == 0 && (pid = fork()) == 0) {
				char byte;

				close(gate[1]);
				while (read(gate[0], &byte, 1) < 0)
					;
				_exit(0);
			}
			close(gate[0]);
			result(pid);
		} else if (strcmp(line, "endfork\n") == 0) {
			close(gate[1]);
			result(wait(NULL));
		} else if (sscanf(line, "storm %d %li %li", &it.fd, &a, &c) == 3) {
			long fine = 0;

			state = (uint64_t)c;
			for (b = 0; b < a; b++) {
				unsigned long number = (unsigned long)random_number() & 0xffffffff;
				size_t at;

				/* Half of them nearly right. */
				if (random_number() & 1)
					number = 0x400CDE00 | (number & 3);
				/* Not those that Linux answers for every file, some of
				 * which change the descriptor. */
				if (((number >> 8) & 0xff) != 0xDE)
					number = (number & ~0xff00UL) | 0xAB00;
				for (at = 0; at < 16; at++)
					space[at] = (unsigned char)random_number();
				fine += ioctl(it.fd, number, space) >= 0;
			}
			printf("ok %ld\n", fine);
		} else if (strcmp(line, "next\n") == 0) {
			take(10);
		} else if (strcmp(line, "none\n") == 0) {
			take(0);
		} else if (sscanf(line, "handle %d", &signal) == 1) {
			struct sigaction action = { .sa_handler = nothing };

			sigemptyset(&all);
			sigaddset(&all, signal);
			sigprocmask(SIG_UNBLOCK, &all, NULL);
			result(sigaction(signal, &action, NULL));
		} else {
			printf("what? %s", line);
		}
	}
	return 0;
}
