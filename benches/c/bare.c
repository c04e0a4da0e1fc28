// bare COUNT PROGRAM: the least that could be called a supervisor. Keeps that many
// children running, and ends them all at SIGTERM. It knows nothing of them but
// their pids: no output, no groups, no policy.
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static sigset_t heard;

static pid_t start(char *program)
{
	pid_t pid = fork();

	if (pid == 0) {
		sigprocmask(SIG_UNBLOCK, &heard, NULL);
		execv(program, (char *[]){ program, NULL });
		_exit(127);
	}
	if (pid < 0) {
		perror("fork");
		exit(1);
	}
	return pid;
}

int main(int argc, char **argv)
{
	long count = argc > 2 ? strtol(argv[1], NULL, 10) : 0;
	pid_t *pids = count > 0 ? calloc(count, sizeof(*pids)) : NULL;
	int signal = 0;

	if (!pids) {
		fprintf(stderr, "usage: bare COUNT PROGRAM\n");
		return 2;
	}
	sigemptyset(&heard);
	sigaddset(&heard, SIGCHLD);
	sigaddset(&heard, SIGTERM);
	sigprocmask(SIG_BLOCK, &heard, NULL);
	for (long at = 0; at < count; at++)
		pids[at] = start(argv[2]);
	while (sigwait(&heard, &signal) == 0 && signal != SIGTERM)
		for (pid_t dead; (dead = waitpid(-1, NULL, WNOHANG)) > 0;)
			for (long at = 0; at < count; at++)
				if (pids[at] == dead)
					pids[at] = start(argv[2]);
	for (long at = 0; at < count; at++)
		kill(pids[at], SIGTERM);
	while (wait(NULL) > 0 || errno == EINTR)
		;
	return 0;
}
