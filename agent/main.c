/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * uswap-agent: puts engine and control together. This thread runs the event
 * loop: signals, new connections, D-Bus; the engine's threads do the rest and
 * never wait for it.
 *
 * It ends in one way only: everything is restored (engine_drain), then the
 * loop is left. An agent that went away with pages out would leave programs
 * hanging.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>
#include <unistd.h>

#include "agent/checks.h"
#include "agent/collect.h"
#include "agent/drain.h"
#include "agent/fdstore.h"
#include "agent/manager.h"
#include "agent/options.h"
#include "agent/setup.h"
#include "common/inject.h"
#include "common/kept.h"
#include "common/log.h"
#include "common/units.h"
#include "common/util.h"
#include "control/control.h"
#include "control/listener.h"
#include "engine/engine.h"
#include "keeper/keeper.h"

#define EXIT_USAGE 2
#define FAILED_SEC 1
#define DAMAGED 6 /* deaths in a row of what was found */

struct agent {
	struct options options;
	struct settings settings;
	sd_event *event;
	struct control *control;
	struct engine *engine;
	struct listener *attach;
	char attach_path[SETTINGS_PATH_MAX];
	char control_path[SETTINGS_PATH_MAX + sizeof("control.sock")];
	struct drain drain;
	sd_event_source *ticker;
	uint64_t tick_usec;
	uint64_t watchdog_usec; /* 0: there is none */
	bool alone;    /* without a keeper */
	bool succeeds; /* another worker, that has died */
	bool found;    /* sessions of an agent before this one */
};

static void log_report(void *arg, const char *message)
{
	log_error("%s", message);
}

static void print_report(void *arg, const char *message)
{
	fprintf(stderr, "%s\n", message);
}

static void tell_status(const struct agent *agent)
{
	struct engine_stats stats;

	if (agent->drain.under_way)
		return;
	engine_get_stats(agent->engine, &stats);
	sd_notifyf(false, "STATUS=%u programs attached", stats.nr_processes);
}

/* ---- reload ---- */

static void warn_restart_needed(const struct settings *old, const struct settings *new)
{
	char a[CONFIG_TEXT], b[CONFIG_TEXT];

	for (size_t i = 0; i < config_nr_keys; i++) {
		if (config_keys[i].live)
			continue;
		config_format(old, &config_keys[i], a, sizeof(a));
		config_format(new, &config_keys[i], b, sizeof(b));
		if (strcmp(a, b) != 0)
			log_warning("%s= is now %s, but %s stays in force until a restart",
				    config_keys[i].name, b, a);
	}
}

static void first_report(void *arg, const char *message)
{
	char *first = arg;

	log_error("%s", message);
	if (!*first)
		snprintf(first, CONTROL_MESSAGE, "%s", message);
}

/* The new [Policy] and LogLevel=; all else stays as it was at the start. */
static int reload(void *ctx, char *message)
{
	struct agent *agent = ctx;
	struct settings new;
	int r;

	message[0] = '\0';
	r = options_load(&agent->options, &new, first_report, message);
	if (r < 0)
		return r;
	config_resolve_store(&new, check_total_memory());
	warn_restart_needed(&agent->settings, &new);
	agent->settings.policy = new.policy;
	agent->settings.log_level = new.log_level;
	log_set_level((enum log_level)new.log_level);
	engine_reload(agent->engine, &agent->settings);
	control_reloaded(agent->control);
	log_info("configuration reloaded");
	return 0;
}

static int on_reload_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *ctx)
{
	struct agent *agent = ctx;
	char message[CONTROL_MESSAGE];

	if (agent->drain.under_way)
		return 0;
	sd_notifyf(false, "RELOADING=1\nMONOTONIC_USEC=%llu",
		   (unsigned long long)(now_ns() / NSEC_PER_USEC));
	if (reload(agent, message) < 0)
		log_error("the configuration in force is kept");
	sd_notify(false, "READY=1");
	tell_status(agent);
	return 0;
}

/* ---- stop ---- */

static void close_attach(struct agent *agent);

static void on_drain_begun(void *ctx)
{
	struct agent *agent = ctx;

	close_attach(agent);
}

/*
 * Everything stays as it is, for the agent that comes next: it finds all of it
 * with the service manager, as after a death. Programs wait meanwhile.
 */
static void leave_to_the_next(void *ctx)
{
	log_info("leaving the programs to the next agent");
	sd_notify(false, "STOPPING=1\nSTATUS=Leaving the programs to the next agent");
	fdstore_sync();
	_exit(EXIT_SUCCESS);
}

static int on_leave(sd_event_source *source, void *ctx)
{
	leave_to_the_next(ctx);
	return 0;
}

static int on_drain_call(void *ctx, bool leave, char *message)
{
	struct agent *agent = ctx;

	if (!leave)
		return drain_start(&agent->drain, message);
	if (agent->drain.under_way || !fdstore_is_there() || !manager_keeps_stopped(keeper_pid())) {
		snprintf(message, CONTROL_MESSAGE, "%s", agent->drain.under_way ? "It is stopping already" :
			 "Nobody would keep what programs have with the agent: that takes a service manager "
			 "that does (systemd 254 and FileDescriptorStorePreserve=yes)");
		return -EOPNOTSUPP;
	}
	/* When the answer is on its way. */
	return sd_event_add_defer(agent->event, NULL, on_leave, agent);
}

static int on_stop_signal(sd_event_source *source, const struct signalfd_siginfo *info, void *ctx)
{
	struct agent *agent = ctx;
	enum manager_job job = MANAGER_UNKNOWN;

	/* The keeper was killed; the manager clears us away, to start anew. */
	if (fdstore_is_there() && !keeper_is_there() && keeper_pid() != getpid())
		leave_to_the_next(agent);
	if (!agent->drain.under_way)
		job = manager_job(keeper_pid());
	if (fdstore_is_there() && job == MANAGER_RESTART)
		leave_to_the_next(agent);
	drain_when_possible(&agent->drain, job == MANAGER_SHUTDOWN);
	return 0;
}

/* ---- news from the engine ---- */

static void on_process_new(void *ctx, uint64_t id)
{
	struct agent *agent = ctx;

	control_process_new(agent->control, id);
	tell_status(agent);
}

static void on_process_gone(void *ctx, uint64_t id)
{
	struct agent *agent = ctx;

	control_process_gone(agent->control, id);
	tell_status(agent);
}

static void on_process_changed(void *ctx, uint64_t id)
{
	control_process_changed(((struct agent *)ctx)->control, id);
}

static void on_drained(void *ctx)
{
	drain_done(&((struct agent *)ctx)->drain);
}

static int on_keep_fd(void *ctx, uid_t uid, char kind, unsigned record, int fd)
{
	return fdstore_put(uid, kind, record, fd);
}

static int on_keep_fd_now(void *ctx, uid_t uid, char kind, unsigned record, int fd)
{
	return fdstore_put_now(uid, kind, record, fd);
}

static void on_forget_fd(void *ctx, uid_t uid, char kind, unsigned record)
{
	fdstore_remove(uid, kind, record);
}

static bool on_sync_fds(void *ctx)
{
	return fdstore_sync();
}

static int on_engine(sd_event_source *source, int fd, uint32_t events, void *ctx)
{
	engine_dispatch(((struct agent *)ctx)->engine);
	return 0;
}

/* ---- sockets ---- */

static void on_attach(void *ctx, int fd)
{
	engine_attach(((struct agent *)ctx)->engine, fd);
}

/* Names of sockets in the directory of kept descriptors. */
#define ATTACH_PASSED "attach"	/* by the service manager */
#define ATTACH_OWN "attach.own" /* bound by a worker */
#define CONTROL_PASSED "control"

/* Before there is a worker: each finds them by name. */
static void take_passed(void)
{
	char **names = NULL;
	int n = sd_listen_fds_with_names(true, &names);

	for (int i = 0; i < n; i++) {
		int fd = SD_LISTEN_FDS_START + i;
		bool known = false;

		if (strcmp(names[i], "attach") == 0 && kept_fd(ATTACH_PASSED) < 0)
			known = sd_is_socket(fd, AF_UNIX, SOCK_SEQPACKET, 1) > 0 &&
				kept_set_fd(ATTACH_PASSED, fd) == 0;
		else if (strcmp(names[i], "control") == 0 && kept_fd(CONTROL_PASSED) < 0)
			known = sd_is_socket(fd, AF_UNIX, SOCK_STREAM, 1) > 0 &&
				kept_set_fd(CONTROL_PASSED, fd) == 0;
		if (!known && !fdstore_take(names[i], fd)) {
			log_warning("the passed descriptor \"%s\" is not a socket we know: closed", names[i]);
			close(fd);
		}
		free(names[i]);
	}
	free(names);
}

/* The path of a passed socket; that of the configuration if it has none. */
static void find_paths(struct agent *agent, int fd)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	socklen_t size = sizeof(addr);
	const char *slash;

	strcpy(agent->attach_path, agent->settings.socket);
	if (fd >= 0 && getsockname(fd, (struct sockaddr *)&addr, &size) == 0 &&
	    addr.sun_path[0] == '/')
		snprintf(agent->attach_path, sizeof(agent->attach_path), "%.*s",
			 (int)sizeof(agent->attach_path) - 1, addr.sun_path);
	slash = strrchr(agent->attach_path, '/');
	snprintf(agent->control_path, sizeof(agent->control_path), "%.*s/control.sock",
		 (int)(slash - agent->attach_path), agent->attach_path);
}

static int open_attach(struct agent *agent)
{
	int fd = kept_fd(ATTACH_PASSED);
	bool own = fd < 0;

	if (own)
		fd = kept_fd(ATTACH_OWN);
	find_paths(agent, fd);
	if (fd < 0)
		fd = listener_bind(agent->attach_path, SOCK_SEQPACKET);
	if (fd < 0) {
		log_error("%s: %s", agent->attach_path,
			  fd == -EADDRINUSE ? "another agent listens there" : strerror(-fd));
		return fd;
	}
	if (own)
		(void)kept_set_fd(ATTACH_OWN, fd);
	agent->attach = listener_new(agent->event, fd, own ? agent->attach_path : NULL, on_attach,
				     agent);
	return agent->attach ? 0 : -errno;
}

/* No worker after us is to listen there. */
static void close_attach(struct agent *agent)
{
	kept_forget_fd(ATTACH_PASSED);
	kept_forget_fd(ATTACH_OWN);
	agent->attach = listener_free(agent->attach);
}

/* ---- life ---- */

#define TICK_USEC 1000000u

/* The watchdog hears of the loop only while the fault threads answer too. */
static void tell_watchdog(struct agent *agent)
{
	/* One with a slow call can be late. */
	if (!agent->engine || engine_is_well(agent->engine, agent->watchdog_usec * NSEC_PER_USEC / 3))
		sd_notify(false, "WATCHDOG=1");
	else
		log_error("a fault thread does not answer");
}

static int on_tick(sd_event_source *source, uint64_t usec, void *ctx)
{
	struct agent *agent = ctx;

	if (agent->watchdog_usec)
		tell_watchdog(agent);
	if (!agent->alone && keeper_pid() != getpid() && !keeper_is_there()) {
		agent->alone = true;
		log_error("the keeper is gone: if this process dies too, the programs wait for ever. A new "
			  "agent can be started; this one serves its programs to their end");
		close_attach(agent);
	}
	if (agent->alone && !fdstore_is_there())
		drain_if_idle(&agent->drain);
	sd_event_source_set_time(source, usec + agent->tick_usec);
	return sd_event_source_set_enabled(source, SD_EVENT_ON);
}

static int start_ticking(struct agent *agent)
{
	uint64_t usec = 0;

	agent->watchdog_usec = sd_watchdog_enabled(false, &usec) > 0 ? usec : 0;
	agent->tick_usec = usec ? MIN(usec / 4, (uint64_t)TICK_USEC) : TICK_USEC;
	return sd_event_add_time_relative(agent->event, &agent->ticker, CLOCK_MONOTONIC, 0, 0, on_tick,
					  agent);
}

static int open_loop(struct agent *agent)
{
	int r = sd_event_default(&agent->event);

	if (r >= 0)
		r = sd_event_add_signal(agent->event, NULL, SIGTERM, on_stop_signal, agent);
	if (r >= 0)
		r = sd_event_add_signal(agent->event, NULL, SIGINT, on_stop_signal, agent);
	if (r >= 0)
		r = sd_event_add_signal(agent->event, NULL, SIGHUP, on_reload_signal, agent);
	if (r >= 0)
		r = start_ticking(agent);
	if (r < 0)
		log_error("no event loop: %s", strerror(-r));
	return r;
}

static int start(struct agent *agent)
{
	const struct control_hooks hooks = { .reload = reload,
					     .drain = on_drain_call,
					     .ctx = agent };
	const struct engine_news news = { .process_new = on_process_new,
					  .process_gone = on_process_gone,
					  .process_changed = on_process_changed,
					  .drained = on_drained,
					  .keep_fd = on_keep_fd,
					  .keep_fd_now = on_keep_fd_now,
					  .forget_fd = on_forget_fd,
					  .sync_fds = on_sync_fds,
					  .ctx = agent };
	int r = open_loop(agent);

	if (r < 0)
		return r;
	/* First the socket: it also tells whether another agent runs here. */
	r = open_attach(agent);
	if (r < 0)
		return r;
	agent->control = control_new(agent->event, &agent->settings, &hooks);
	if (!agent->control)
		return -ENOMEM;
	agent->engine = engine_new(&agent->settings, &news);
	if (!agent->engine)
		return -EIO; /* it has said why */
	fdstore_put_files();
	agent->drain = (struct drain){ .event = agent->event,
				       .engine = agent->engine,
				       .control = agent->control,
				       .begun = on_drain_begun,
				       .leave = leave_to_the_next,
				       .ctx = agent };
	r = sd_event_add_io(agent->event, NULL, engine_fd(agent->engine), EPOLLIN, on_engine,
			    agent);
	if (r < 0)
		return r;
	/* Programs are served even if nobody can give orders. */
	control_start(agent->control, agent->engine, agent->control_path, kept_fd(CONTROL_PASSED));
	return 0;
}

static int run(struct agent *agent)
{
	int r = start(agent);

	if (r >= 0) {
		keeper_settled();
		sd_notify(false, "READY=1");
		tell_status(agent);
		log_write(agent->settings.foreground ? LOG_LEVEL_NOTICE : LOG_LEVEL_INFO,
			  "ready, programs attach at %s", agent->attach_path);
		r = sd_event_loop(agent->event);
		if (r < 0)
			log_error("the event loop failed: %s", strerror(-r));
	}
	/* A failure of one that was to take over is no reason to give up what is
	   waiting: the keeper tries again. */
	if (r < 0 && agent->succeeds) {
		log_error("the programs wait: trying again");
		_exit(KEEPER_AGAIN);
	}
	if (r < 0 && agent->found) /* nor is it for one that the manager has started on it */
		_exit(EXIT_FAILURE);
	close_attach(agent);
	/* A failure before READY: no program has got in. */
	agent->engine = engine_free(agent->engine);
	if (r >= 0)
		fdstore_remove_files();
	agent->control = control_free(agent->control);
	drain_deinit(&agent->drain);
	sd_event_source_disable_unref(agent->ticker);
	sd_event_unref(agent->event);
	return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static void print_settings(const struct settings *settings)
{
	char value[CONFIG_TEXT];
	const char *section = "";

	for (size_t i = 0; i < config_nr_keys; i++) {
		if (strcmp(section, config_keys[i].section) != 0) {
			section = config_keys[i].section;
			printf("%s[%s]\n", i ? "\n" : "", section);
		}
		config_format(settings, &config_keys[i], value, sizeof(value));
		printf("%s=%s\n", config_keys[i].name, value);
	}
}

/* As the one before it: the configuration may have been read again since the keeper
   did. One that is wrong by now changes nothing. */
static void reread(struct agent *agent)
{
	struct settings new;

	if (options_load(&agent->options, &new, log_report, NULL) < 0)
		return;
	agent->settings.policy = new.policy;
	agent->settings.log_level = new.log_level;
	log_set_level((enum log_level)new.log_level);
}

/* A kernel known to lose or crash is not touched without being told to. */
static bool kernel_is_fit(void)
{
	char detail[CHECK_DETAIL];

	if (check_kernel(detail) != CHECK_FAIL)
		return true;
	log_error("%s", detail);
	return getenv("USWAP_ALLOW_KERNEL") != NULL;
}

static int work(void *arg, const struct keeper_life *life)
{
	struct agent *agent = arg;

	/* The manager starts another agent on the same memory when the keeper dies:
	   there must not be two. */
	if (fdstore_is_there()) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (keeper_pid() != getpid() && !keeper_is_there())
			raise(SIGKILL);
	}
	setup_limits();
	engine_close_strays();
	agent->succeeds = life->deaths > 0;
	agent->found = kept_fd("sessions") >= 0;
	if (life->in_a_row >= DAMAGED)
		engine_expect_damage();
	if (life->deaths) {
		log_warning("a new worker, after %u that have died", life->deaths);
		fdstore_inherited();
		reread(agent);
	}
	return run(agent);
}

/* In the holder. */
static void hand_over(void *arg)
{
	engine_hand_over(fdstore_hand_over);
	fdstore_handed_over();
}

static int run_agent(int argc, char *argv[])
{
	static struct agent agent;
	char message[ENGINE_KEY_MESSAGE];
	bool quiet;

	if (options_parse(&agent.options, argc, argv) < 0)
		return EXIT_USAGE;
	if (agent.options.action == OPTIONS_EXIT)
		return EXIT_SUCCESS;
	quiet = agent.options.action == OPTIONS_RUN;
	if (options_load(&agent.options, &agent.settings, quiet ? log_report : print_report,
			 NULL) < 0)
		return EXIT_FAILURE;
	if (agent.options.action == OPTIONS_CHECK_CONFIG) {
		if (!engine_check_key(&agent.settings, message)) {
			print_report(NULL, message);
			return EXIT_FAILURE;
		}
		print_settings(&agent.settings);
		return EXIT_SUCCESS;
	}
	config_resolve_store(&agent.settings, check_total_memory());
	if (agent.options.action == OPTIONS_COLLECT_HOST)
		return collect_run(agent.settings.store, agent.options.host) ? EXIT_SUCCESS : EXIT_FAILURE;
	if (agent.options.action == OPTIONS_CHECK)
		return check_run(&agent.settings) ? EXIT_SUCCESS : EXIT_FAILURE;
	log_set_level((enum log_level)agent.settings.log_level);
	setup_signals();
	if (!kernel_is_fit())
		return EXIT_FAILURE;
	/* Of the keeper's own; a worker's would not be told by its pid. */
	unsetenv("WATCHDOG_PID");
	kept_use(kept_directory_new());
	inject_init();
	fdstore_init();
	take_passed();
	if (!fdstore_taken())
		return EXIT_FAILURE;
	if (engine_starts_anew(&agent.settings))
		fdstore_forget_files();
	return keeper_run(work, fdstore_is_there() ? hand_over : NULL, &agent);
}

int main(int argc, char *argv[])
{
	int status = run_agent(argc, argv);

	/* The manager starts us again at once, and again. */
	if (status == EXIT_FAILURE && getenv("NOTIFY_SOCKET"))
		sleep(FAILED_SEC);
	return status;
}
