// recv_loop [PAUSE_US [STAMPS]]: the least that listens to the proc connector: counts the
// events and does nothing else with them. The C half of compare.sh.
//
// Without an argument, or with 0, it calls recv(2) once per event, as the usual
// examples do. Otherwise it waits for the first event, pauses that long, and then
// empties the queue with recvmmsg(2).
//
// With the name of a file it notes when it was told of the exit of each process, and
// at the end writes "pid nanoseconds" (CLOCK_MONOTONIC) for each there.
//
// It prints "ready" when the kernel sends to it, and on SIGTERM or SIGINT one
// line of name=value words, the same as host_stream prints.
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "connector.h"

#define BATCH 128
#define BYTES 128
// After the signal, how long without an event counts as the end of the queue.
#define QUIET_MS 50
#define DROPS_INDEX 8 // SK_MEMINFO_DROPS

#define STAMPS_MAX (1 << 20)

struct stamp {
	int pid;
	long long nanos;
};

static struct stamp *stamps;
static size_t stamp_count;
static volatile sig_atomic_t stopping;
static unsigned long events, forks, execs, exits, overflows;

static void stop(int signal)
{
	(void)signal;
	stopping = 1;
}

static long long cpu_us(void)
{
	struct timespec used;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	return used.tv_sec * 1000000LL + used.tv_nsec / 1000;
}

static unsigned dropped(int fd)
{
	unsigned values[16] = {0};
	socklen_t length = sizeof(values);

	getsockopt(fd, SOL_SOCKET, SO_MEMINFO, values, &length);
	return values[DROPS_INDEX];
}

static void note_exit(const char *bytes)
{
	struct timespec now;
	int pid, tgid;

	memcpy(&pid, bytes + 52, sizeof(pid));
	memcpy(&tgid, bytes + 56, sizeof(tgid));
	if (pid != tgid || stamp_count == STAMPS_MAX)
		return;
	clock_gettime(CLOCK_MONOTONIC, &now);
	stamps[stamp_count++] =
		(struct stamp){pid, now.tv_sec * 1000000000LL + now.tv_nsec};
}

static void write_stamps(const char *path)
{
	FILE *file = fopen(path, "w");

	if (!file)
		die(path);
	for (size_t at = 0; at < stamp_count; at++)
		fprintf(file, "%d %lld\n", stamps[at].pid, stamps[at].nanos);
	if (fclose(file))
		die(path);
}

// The bytes are 4-aligned only, so what is read is copied out.
static void count(const char *bytes, size_t length)
{
	unsigned what;

	if (length < 40)
		return;
	memcpy(&what, bytes + 36, sizeof(what));
	switch (what) {
	case 0x1:
		forks++;
		break;
	case 0x2:
		execs++;
		break;
	case 0x80000000:
		exits++;
		if (stamps && length >= 60)
			note_exit(bytes);
		break;
	default:
		return;
	}
	events++;
}

// One recv. Whether there is more to come.
static int take_one(int fd, int flags)
{
	char bytes[BYTES];
	ssize_t length = recv(fd, bytes, sizeof(bytes), flags);

	if (length >= 0) {
		count(bytes, length);
		return 1;
	}
	if (errno == ENOBUFS) {
		overflows++;
		return 1;
	}
	if (errno != EAGAIN && errno != EINTR)
		die("recv");
	return 0;
}

static void take_all(int fd)
{
	static char bytes[BATCH][BYTES];
	static struct iovec buffers[BATCH];
	static struct mmsghdr messages[BATCH];

	for (;;) {
		for (int at = 0; at < BATCH; at++) {
			buffers[at] = (struct iovec){bytes[at], BYTES};
			messages[at].msg_hdr.msg_iov = &buffers[at];
			messages[at].msg_hdr.msg_iovlen = 1;
		}
		int got = recvmmsg(fd, messages, BATCH, MSG_DONTWAIT, NULL);
		if (got < 0 && errno == ENOBUFS) {
			overflows++;
			continue;
		}
		if (got < 0 && errno != EAGAIN && errno != EINTR)
			die("recvmmsg");
		for (int at = 0; at < got; at++)
			count(bytes[at], messages[at].msg_len);
		if (got < BATCH)
			return;
	}
}

int main(int argc, char **argv)
{
	long pause_us = argc > 1 ? strtol(argv[1], NULL, 10) : 0;
	struct sigaction action = {.sa_handler = stop}; // recv is to be interrupted
	const char *path = argc > 2 ? argv[2] : NULL;
	int fd = open_connector();
	long long before;

	if (path && !(stamps = calloc(STAMPS_MAX, sizeof(*stamps))))
		die("memory");

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	request(fd, PROC_CN_MCAST_LISTEN);
	before = cpu_us();
	puts("ready");
	fflush(stdout);

	while (!stopping) {
		struct pollfd readable = {fd, POLLIN, 0};

		if (!pause_us) {
			take_one(fd, 0);
		} else if (poll(&readable, 1, -1) > 0) {
			usleep(pause_us);
			take_all(fd);
		}
	}
	for (;;) {
		struct pollfd readable = {fd, POLLIN, 0};

		if (poll(&readable, 1, QUIET_MS) <= 0 || !take_one(fd, MSG_DONTWAIT))
			break;
	}
	printf("events=%lu forks=%lu execs=%lu exits=%lu lost=%u losses_told=%lu "
	       "kernel_dropped=%u facts=%lu cpu_us=%lld\n",
	       events, forks, execs, exits, dropped(fd), overflows, dropped(fd), events,
	       cpu_us() - before);
	if (path)
		write_stamps(path);
	// Or the kernel would count us as a listener for ever (before Linux 6.6).
	request(fd, PROC_CN_MCAST_IGNORE);
	return 0;
}
