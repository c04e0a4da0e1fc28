/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The interface of /dev/kmonitor: lifecycle events of other processes, told by
 * signals. The numbers are those of the kmonitor patch of 2004, so that its
 * programs run unchanged; `kmonitor serve` offers the device on a kernel that
 * was not patched.
 *
 *   int fd = open(KMONITOR_DEVICE, O_WRONLY);
 *   struct kmonitor_cmd cmd = { target, KMONITOR_PROCESS_EXIT, SIGRTMIN };
 *   ioctl(fd, KMONITOR_IOW_REGISTER, &cmd);
 *
 * Each event then arrives as the signal, to be caught by a handler that was
 * installed with SA_SIGINFO, or by sigwaitinfo() or signalfd():
 *
 *   si_code  SI_QUEUE
 *   si_int   the single bit of the event
 *   si_pid   whom it concerns: for PROCESS_FORK and THREAD_CREATE the new
 *            process or thread, otherwise the one registered, or its thread
 *   si_uid   the uid of that one
 *
 * An abnormal end (by a signal) is told twice: ABORT, and then EXIT.
 *
 * REGISTER again for the same target adds to its events, and replaces the
 * signal. DEREGISTER takes events away (its `signal` means nothing); EINVAL if
 * nothing is registered. Closing the descriptor takes all away.
 *
 * Use real-time signals (SIGRTMIN to SIGRTMAX). Of any other, the kernel keeps
 * one at a time: events that come while one is pending are not told.
 */
#ifndef KMONITOR_H
#define KMONITOR_H

#include <sys/ioctl.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KMONITOR_DEVICE "/dev/kmonitor"

struct kmonitor_cmd {
	pid_t pid;  /* the target: whom to monitor */
	int type;   /* events: bits of the list below */
	int signal; /* what to tell the caller by */
};

/* 0x400CDE01 and 0x400CDE02. */
#define KMONITOR_IOW_REGISTER _IOW(0xDE, 1, struct kmonitor_cmd)
#define KMONITOR_IOW_DEREGISTER _IOW(0xDE, 2, struct kmonitor_cmd)

#define KMONITOR_THREAD_CREATE 0x01  /* the target got another thread */
#define KMONITOR_THREAD_ABORT 0x02   /* one of its threads ended by a signal */
#define KMONITOR_THREAD_EXIT 0x04    /* one of its threads ended */
#define KMONITOR_PROCESS_FORK 0x08   /* it created a process */
#define KMONITOR_PROCESS_ABORT 0x10  /* it ended by a signal */
#define KMONITOR_PROCESS_EXEC 0x20   /* it replaced its program */
#define KMONITOR_PROCESS_EXIT 0x40   /* it ended, with all its threads */
#define KMONITOR_ALL_EVENTS 0x7F

/* The names without a prefix that sources of 2004 use. */
#ifndef KMONITOR_NO_SHORT_NAMES
#define THREAD_CREATE KMONITOR_THREAD_CREATE
#define THREAD_ABORT KMONITOR_THREAD_ABORT
#define THREAD_EXIT KMONITOR_THREAD_EXIT
#define PROCESS_FORK KMONITOR_PROCESS_FORK
#define PROCESS_ABORT KMONITOR_PROCESS_ABORT
#define PROCESS_EXEC KMONITOR_PROCESS_EXEC
#define PROCESS_EXIT KMONITOR_PROCESS_EXIT
#endif

#ifdef __cplusplus
}
#endif

#endif
