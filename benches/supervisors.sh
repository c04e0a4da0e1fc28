#!/bin/sh
# Supervisors compared, each with a thousand children that do nothing: starting them,
# replacing one that was killed, memory, what it costs to wait, stopping them. See
# README.md, "Supervisors".
#
#   benches/supervisors.sh [-n ROUNDS] [-c CHILDREN] [-k KILLS] [-i IDLE_S] [-o NAMES]
#
# Each round runs each supervisor once, in an order that turns from round to round,
# with KILLS kills. NAMES, with commas, are those that take part, of: cgroup, tree,
# group, leader (ours), supervisord, s6, bare. Ratios are to the first. Needs a C
# compiler, and a static C library; for all rows root and a writable cgroup v2.
# supervisord and s6 take part where they are installed:
#
#   apt-get install supervisor s6
set -eu

rounds=3 children=1000 kills=70 idle=10
names=cgroup,tree,group,leader,supervisord,s6,bare
while getopts n:c:k:i:o: option; do
	case $option in
	n) rounds=$OPTARG ;;
	c) children=$OPTARG ;;
	k) kills=$OPTARG ;;
	i) idle=$OPTARG ;;
	o) names=$OPTARG ;;
	*) sed -n '2,15s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
	esac
done

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
work=$(mktemp -d)
# s6 wants its directories where no disk is.
scan=$(mktemp -d -p /dev/shm 2>/dev/null || mktemp -d)
measuring=

# Whoever has our FIFO in its environment: supervisors, and their children.
ours() {
	grep -lsaF "BORN=$work/" /proc/[0-9]*/environ 2>/dev/null |
		sed 's|/proc/\([0-9]*\)/.*|\1|' || :
}

finish() {
	trap '' INT TERM
	if [ -n "$measuring" ]; then kill -KILL "$measuring" 2>/dev/null || :; fi
	# Again and again, because supervisors start what is killed.
	tries=0
	left=$(ours)
	while [ -n "$left" ] && [ "$tries" -lt 100 ]; do
		# shellcheck disable=SC2086 # One word for each.
		kill -KILL $left 2>/dev/null || :
		tries=$((tries + 1))
		left=$(ours)
	done
	if [ -n "$left" ]; then echo "still there:" $left >&2; fi
	# Ours is gone with its cgroups, unless it was killed.
	mount=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
	if [ -n "$mount" ] && [ -s "$work/pids" ]; then
		while read -r pid; do
			# Who was killed just now may be in it still.
			for wait in 0.1 1 0; do
				find "$mount" -depth -type d -path "*/kmonitor-$pid-*" >"$work/cgroups"
				if [ ! -s "$work/cgroups" ]; then break; fi
				xargs rmdir <"$work/cgroups" 2>/dev/null || :
				sleep "$wait"
			done
		done <"$work/pids"
	fi
	rm -rf "$work" "$scan"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Ours and supervisord have up to four descriptors for a child.
needed=$((children * 5 + 1000))
if [ "$(ulimit -n)" != unlimited ] && [ "$(ulimit -n)" -lt "$needed" ]; then
	if ! ulimit -n "$needed"; then
		echo "cannot have $needed descriptors: fewer children (-c), or a higher limit" >&2
		exit 1
	fi
fi

cc=${CC:-cc}
# Static, so that the linker of the child is no part of what is measured.
"$cc" -O2 -Wall -Wextra -static -o "$work/born" "$here/c/born.c"
"$cc" -O2 -Wall -Wextra -o "$work/bare" "$here/c/bare.c"
# Copied, so that nobody builds another one in the middle of it.
(cd "$here" && cargo build --quiet --release -p kmonitor-benches --bin keeper \
	--bin supervisors --message-format=json) |
	sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' >"$work/built"
while read -r built; do cp "$built" "$work/"; done <"$work/built"
mkfifo "$work/fifo"

prepare_supervisord() {
	mkdir "$work/logs"
	# Each start of a child closes so many descriptors, so no more than it needs.
	cat >"$work/supervisord.conf" <<-END
		[supervisord]
		nodaemon = true
		user = $(id -un)
		logfile = $work/supervisord.log
		childlogdir = $work/logs
		pidfile = $work/supervisord.pid
		minfds = $needed
		minprocs = $((children + 200))

		[program:child]
		command = $work/born
		numprocs = $children
		process_name = child-%(process_num)d
		autorestart = true
		startsecs = 0
	END
}

prepare_s6() {
	number=0
	while [ "$number" -lt "$children" ]; do
		mkdir "$scan/child-$number"
		ln -s "$work/born" "$scan/child-$number/run"
		number=$((number + 1))
	done
}

# A name, a tab, a command without quoting.
line() {
	printf '%s\t%s\n' "$1" "$2"
}

absent() {
	echo "$1 does not take part: $2" >&2
}

for name in $(echo "$names" | tr , ' '); do
	case $name in
	tree) line 'ours, tree' "$work/keeper $children tree capture $work/born" ;;
	group) line 'ours, group' "$work/keeper $children group capture $work/born" ;;
	# What s6 does: no more than its child, and no output.
	leader) line 'ours, leader, no output' "$work/keeper $children leader inherit $work/born" ;;
	cgroup)
		# It runs until it is told to stop, or ends because there are none.
		: >"$work/probe"
		status=0
		# shellcheck disable=SC2016 # For the inner shell.
		BORN=$work/probe timeout 2 sh -c 'echo $$ >>"$1"; exec "$2" 1 cgroup capture "$3"' \
			- "$work/pids" "$work/keeper" "$work/born" 2>"$work/why" || status=$?
		if [ "$status" -eq 124 ]; then
			line 'ours, cgroup' "$work/keeper $children cgroup capture $work/born"
		else
			absent cgroup "$(cat "$work/why")"
		fi
		;;
	supervisord)
		if command -v supervisord >/dev/null; then
			prepare_supervisord
			line supervisord "supervisord -c $work/supervisord.conf"
		else
			absent supervisord 'apt-get install supervisor'
		fi
		;;
	s6)
		if command -v s6-svscan >/dev/null; then
			prepare_s6
			line s6 "s6-svscan -c $((children + 10)) $scan"
		else
			absent s6 'apt-get install s6'
		fi
		;;
	bare) line 'bare loop (C)' "$work/bare $children $work/born" ;;
	*) echo "no such supervisor: $name" >&2; exit 2 ;;
	esac
done >"$work/commands"

echo "$rounds rounds of $children children, $kills kills in each, idle for $idle s"
"$work/supervisors" "$rounds" "$children" "$kills" "$idle" "$work/fifo" "$work/born" \
	"$work/pids" <"$work/commands" &
measuring=$!
# So that a signal is heard while it runs.
status=0
wait "$measuring" || status=$?
measuring=
if [ "$status" -ne 0 ] && [ -s "$work/supervisord.log" ]; then
	tail -n 5 "$work/supervisord.log" >&2
fi
exit "$status"
