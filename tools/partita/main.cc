// partita: the command line.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "base/log.h"
#include "tools/control/channel.h"
#include "tools/control/nearest.h"
#include "tools/partita/bench_command.h"
#include "tools/partita/connect_command.h"
#include "tools/partita/ctl_command.h"
#include "tools/partita/guest_setup.h"
#include "tools/partita/host_command.h"
#include "tools/partita/run_command.h"
#include "tools/partita/run_config.h"
#include "tools/partita/switch_command.h"
#include "tools/shell/program.h"

namespace partita {
namespace {

// The flag or command of `app` nearest to what was typed; empty if nothing is near.
std::string NearestOf(const CLI::App& app, const std::string& typed) {
  std::vector<std::string> known;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
  }
  for (const CLI::App* sub : app.get_subcommands({})) known.push_back(sub->get_name());
  if (app.get_parent() == nullptr) {
    const shell::CmdletTable cmdlets = shell::AllCmdlets();
    for (const shell::CmdletInfo& info : cmdlets.cmdlets()) known.push_back(info.Name());
  }
  return Nearest(typed, known);
}

int UsageError(const CLI::App& root, const CLI::ParseError& error, int argc, char** argv) {
  fprintf(stderr, "partita: %s\n", error.what());
  const CLI::App* app = &root;
  for (const CLI::App* sub : root.get_subcommands()) app = sub;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const std::string name = word.substr(0, word.find('='));
    const bool flag = name.starts_with("--");
    const auto known = app->get_options();
    const bool is_known =
        flag && std::any_of(known.begin(), known.end(),
                            [&](const CLI::Option* o) { return o->check_lname(name.substr(2)); });
    if ((flag && !is_known) || (!flag && app == &root)) {
      if (const std::string near = NearestOf(*app, name); !near.empty()) {
        fprintf(stderr, "partita: did you mean %s?\n", near.c_str());
      }
      break;
    }
  }
  fprintf(stderr, "partita: see `partita %s--help`\n",
          app == &root ? "" : (app->get_name() + " ").c_str());
  return control::kExitUsage;
}

void AddRun(CLI::App& root, RunOptions& o) {
  CLI::App* run = root.add_subcommand("run", "Start one partition and stay until it ends");
  run->add_option("--kernel", o.kernel, "Kernel: a bzImage or an ELF vmlinux");
  run->add_option("--initrd", o.initrd, "Initial RAM disk");
  run->add_option("--cmdline", o.command_line, "Kernel command line");
  run->add_option(
         "--name", o.name,
         "Name; the identities and addresses of its devices derive from it. Without one they "
         "are new\nin each run")
      ->capture_default_str();
  run->add_option(
         "--memory", o.memory,
         "RAM: SIZE[,pages=auto|4k|2m|shared][,max=SIZE], SIZE like 512M or 2G. Memory up to max "
         "can be\nadded while it runs")
      ->capture_default_str();
  run->add_option("--cpus", o.cpus, "Virtual processors")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  run->add_option("--disk", o.disks,
                  "PATH[,ro][,cache=writeback|none][,logical=512|4096][,record=FILE]; repeat "
                  "for\nmore disks. "
                  "record= keeps every write and flush for a test of power cuts")
      ->take_all()
      ->allow_extra_args(false);
  run->add_option(
         "--net", o.nets,
         "tap=NAME|bridge=NAME|user|none[,mac=XX:..][,queues=N][,vlan=N][,map-gw=on]; repeat for "
         "more\nadapters. user needs no privilege (NAT by passt)")
      ->take_all()
      ->allow_extra_args(false);
  run->add_option("--queues", o.queues, "Channels of the SCSI controller (default: one per VP)")
      ->check(CLI::Range(1, 64));
  run->add_option("--synic", o.synic, "SynIC backend")
      ->check(CLI::IsMember({"auto", "kernel", "user"}))
      ->capture_default_str();
  run->add_flag("--stimer,!--no-stimer", o.synthetic_timers,
                "Offer synthetic timers in the user backend");
  run->add_option("--serial", o.serial, "Console: stdio, pty, file:PATH or unix:PATH")
      ->capture_default_str();
  run->add_option("--on-reset", o.on_reset, "What a guest reset does")
      ->check(CLI::IsMember({"restart", "exit"}))
      ->capture_default_str();
  run->add_option("--vmbus-version", o.vmbus_version, "Newest VMBus version offered, like 4.0");
  run->add_option("--asset-tag", o.asset_tag,
                  "Asset tag of the chassis in the SMBIOS tables, by which some images know their\n"
                  "host");
  run->add_option("--cpu-affinity", o.affinity, "Host CPU for each VP, comma separated")
      ->delimiter(',');
  run->add_flag("--unpack-kernel", o.unpack_kernel,
                "Unpack the kernel here instead of in the guest (slow hosts)");
  run->add_option("--stats-json", o.stats_file, "Write all counters to FILE at the end");
  run->add_option("--control", o.control,
                  "Unix socket at which `partita ctl` reaches the partition");
  run->add_option("--vsock", o.vsock,
                  "Unix socket for connections to the guest (`partita connect`); a guest that\n"
                  "connects to port N of the host reaches the socket PATH_N");
  run->add_option("--config", o.config,
                  "The same settings as a JSON file (docs/run-config.md); flags win over it");
  // So that a flag wins over the file, whose settings are put before it.
  for (CLI::Option* option : run->get_options()) {
    if (option->check_lname("disk") || option->check_lname("net") ||
        option->get_name() == "--cpu-affinity") {
      continue;
    }
    option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
  }
  run->footer(
      "Exit status: 0 power-off, 1 error before start, 2 usage, 10 reset with --on-reset exit,\n"
      "11 guest panic, 12 triple fault or KVM error, 13 ended with a poisoned disk,\n"
      "128+n stopped by signal n.");
}

const CLI::App* AddNetworkBench(CLI::App& bench, NetworkBenchOptions& o) {
  CLI::App* network = bench.add_subcommand(
      "network",
      "Boot the enlightened guest, move frames between it and a TAP, then the same from the host");
  network
      ->add_option("--direction", o.direction,
                   "send: from the partition; receive: into it; latency: one frame there and back")
      ->check(CLI::IsMember({"send", "receive", "latency"}))
      ->capture_default_str();
  network->add_option("--frame-size", o.frame_size, "Bytes, with the Ethernet header")
      ->check(CLI::Range(60, 1514))
      ->capture_default_str();
  network->add_option("--seconds", o.seconds, "Length of each of the two runs")
      ->check(CLI::Range(1, 3600))
      ->capture_default_str();
  network->add_option("--mode", o.mode, "How the guest waits")
      ->check(CLI::IsMember({"interrupt", "poll"}))
      ->capture_default_str();
  network->add_option("--synic", o.synic, "SynIC backend")
      ->check(CLI::IsMember({"auto", "kernel", "user"}))
      ->capture_default_str();
  network->add_flag("--json", o.json, "Machine-readable");
  return network;
}

CLI::App* AddBench(CLI::App& root, BenchOptions& o) {
  CLI::App* bench = root.add_subcommand("bench", "Measure I/O inside a partition against the host");
  bench->require_subcommand(1);
  CLI::App* storage = bench->add_subcommand(
      "storage",
      "Boot the enlightened guest, run the load in it, then the same load from the host");
  storage->add_option("--disk", o.disk, "Disk, as for `run`; writing loads destroy what is on it")
      ->required();
  storage->add_option("--rw", o.rw, "Load")
      ->check(CLI::IsMember({"randread", "randwrite", "read", "write"}))
      ->capture_default_str();
  storage->add_option("--block-size", o.block_size, "Bytes per I/O, 512 to 256k")
      ->capture_default_str();
  storage->add_option("--queue-depth", o.queue_depth, "I/Os in flight per VP")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  storage->add_option("--seconds", o.seconds, "How long each of the two works, over all rounds")
      ->check(CLI::Range(1, 3600))
      ->capture_default_str();
  storage->add_option("--rounds", o.rounds, "Rounds in which the two take turns")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  storage->add_option("--cpus", o.cpus, "Virtual processors, each with a channel of its own")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  storage->add_option("--mode", o.mode, "How the guest waits")
      ->check(CLI::IsMember({"interrupt", "poll"}))
      ->capture_default_str();
  storage->add_option("--synic", o.synic, "SynIC backend")
      ->check(CLI::IsMember({"auto", "kernel", "user"}))
      ->capture_default_str();
  storage->add_option("--seed", o.seed, "Seed of the offsets")->capture_default_str();
  storage->add_flag("--json", o.json, "Machine-readable");
  return storage;
}

// Puts the settings of --config before the flags and parses again. 0, or the status to end with.
int ApplyConfig(CLI::App& root, RunOptions& options, int argc, char** argv) {
  const std::string path = options.config;
  const auto arguments = ArgumentsFromFile(path);
  if (!arguments.ok()) {
    Log(Message(arguments.status()));
    return control::kExitStartFailed;
  }
  const auto parse = [&](bool with_flags) {
    std::vector<std::string> all;
    if (with_flags) {
      for (int i = argc - 1; i >= 2; --i) all.emplace_back(argv[i]);
    }
    all.insert(all.end(), arguments->rbegin(), arguments->rend());
    all.emplace_back("run");
    options = RunOptions();
    root.parse(all);  // takes them last first
  };
  try {
    parse(false);
  } catch (const CLI::ParseError& error) {
    Log(path + ": " + error.what());
    return control::kExitUsage;
  }
  parse(true);
  return 0;
}

using Verb = std::function<CLI::App*(const char* name, const char* help, std::function<void()>)>;

void RequiredText(CLI::App* sub, const char* name, std::string* text, const char* help = "") {
  sub->add_option(name, *text, help)->required();
}

// Disks and adapters that come and go.
void AddDeviceVerbs(const Verb& verb, CtlOptions& o) {
  control::Request& r = o.request;
  CLI::App* disk = verb("add-disk", "Add a disk; prints its id",
                        [&o] { o.prepare = [&o] { return PrepareDisk(o); }; });
  RequiredText(disk, "DISK", &o.text, "As for run --disk");
  CLI::App* nic = verb("add-nic", "Add a network adapter; prints its id",
                       [&o] { o.prepare = [&o] { return PrepareAdapter(o); }; });
  RequiredText(nic, "NET", &o.text, "As for run --net");
  CLI::App* remove = verb("remove", "Remove a disk or an adapter that was added",
                          [&] { r.mutable_remove_device()->set_id(o.text); });
  RequiredText(remove, "ID", &o.text);
  CLI::App* link = verb("link", "Plug an adapter's wire in or out", [&] {
    r.mutable_set_link()->set_id(o.text);
    r.mutable_set_link()->set_up(o.word == "up");
  });
  RequiredText(link, "ID", &o.text);
  link->add_option("STATE", o.word)->required()->check(CLI::IsMember({"up", "down"}));
  CLI::App* service = verb("service", "Offer an integration service, or take it back", [&] {
    r.mutable_switch_service()->set_name(o.text);
    r.mutable_switch_service()->set_on(o.word == "on");
  });
  RequiredText(service, "NAME", &o.text, "As status names it");
  service->add_option("STATE", o.word)->required()->check(CLI::IsMember({"on", "off"}));
}

// What the guest does about itself.
void AddGuestVerbs(const Verb& verb, CtlOptions& o) {
  control::Request& r = o.request;
  CLI::App* freeze = verb("freeze", "Freeze the guest's file systems (needs hv_vss_daemon)",
                          [&] { r.mutable_freeze()->set_seconds(o.seconds); });
  freeze->add_option("--seconds", o.seconds, "They are thawed after that in any case")
      ->check(CLI::Range(1, 300))
      ->capture_default_str();
  verb("thaw", "Let them go on", [&r] { r.mutable_thaw(); });
  CLI::App* copy = verb("copy-file", "Copy a file into the guest (needs hv_fcopy_daemon)",
                        [&o] { o.prepare = [&o] { return PrepareCopy(o); }; });
  RequiredText(copy, "SOURCE", &o.text);
  RequiredText(copy, "TARGET", &o.word, "Absolute path in the guest");
  copy->add_flag("--overwrite", o.overwrite, "An existing file is replaced");
  copy->add_flag("--create-path", o.create_path, "Missing folders are made");
  CLI::App* addresses = verb("ip-addresses", "Addresses of its adapters (needs hv_kvp_daemon)",
                             [&] { r.mutable_addresses()->set_id(o.text); });
  addresses->add_option("ID", o.text, "One adapter instead of all");
  CLI::App* set = verb("set-ip", "Have the guest configure an adapter (needs hv_kvp_daemon)", [&] {
    r.mutable_addresses()->set_set(true);
    r.mutable_addresses()->set_id(o.text);
    r.mutable_addresses()->set_dhcp(o.word == "dhcp");
    if (o.word != "dhcp") r.mutable_addresses()->set_addresses(o.word);
    r.mutable_addresses()->set_subnets(o.subnet);
    r.mutable_addresses()->set_gateways(o.gateway);
    r.mutable_addresses()->set_dns(o.dns);
  });
  RequiredText(set, "ID", &o.text);
  RequiredText(set, "ADDRESS", &o.word, "dhcp, or addresses separated by ;");
  set->add_option("--subnet", o.subnet, "Masks, in the same order");
  set->add_option("--gateway", o.gateway);
  set->add_option("--dns", o.dns);
  CLI::App* memory = verb("memory", "Set how much memory the guest has (needs hv_balloon)",
                          [&o] { o.prepare = [&o] { return PrepareMemory(o); }; });
  RequiredText(memory, "SIZE", &o.text, "Like 384M");
  CLI::App* type =
      verb("type", "Type text on its keyboard", [&] { r.mutable_keys()->set_text(o.text); });
  RequiredText(type, "TEXT", &o.text);
  CLI::App* keys =
      verb("keys", "Press keys together", [&] { r.mutable_keys()->set_chord(o.text); });
  RequiredText(keys, "KEYS", &o.text, "Like ctrl+alt+del");
}

// The verbs of `partita ctl`; each sets the request.
CLI::App* AddCtl(CLI::App& root, CtlOptions& o) {
  CLI::App* ctl = root.add_subcommand("ctl", "Ask a running partition (`partita run --control`)");
  ctl->require_subcommand(1);
  ctl->add_option("SOCKET", o.socket, "The socket named by --control")->required();
  auto verb = [&](const char* name, const char* help, std::function<void()> set) {
    CLI::App* sub = ctl->add_subcommand(name, help);
    sub->add_flag("--json", o.json, "Machine-readable");
    sub->parse_complete_callback(std::move(set));
    return sub;
  };
  control::Request& r = o.request;
  verb("status", "State, heartbeat and services", [&r] { r.mutable_get_status(); });
  verb("heartbeat", "OK, Lost communication or No contact", [&] {
    r.mutable_get_status();
    o.heartbeat_only = true;
  });
  verb("stats", "All counters, now", [&r] { r.set_live_stats(true); });
  const auto shutdown = [&](const char* name, const char* help, auto kind) {
    CLI::App* sub = verb(name, help, [&r, kind] { r.mutable_shutdown_guest()->set_kind(kind); });
    sub->add_flag_callback(
        "--force", [&r] { r.mutable_shutdown_guest()->set_force(true); },
        "Programs that do not end are ended");
  };
  shutdown("shutdown", "Ask the guest to power itself off", control::ShutdownGuest::POWER_OFF);
  shutdown("reboot", "Ask the guest to restart itself", control::ShutdownGuest::REBOOT);
  shutdown("hibernate", "Ask the guest to hibernate", control::ShutdownGuest::HIBERNATE);
  verb("power-off", "Switch it off at once; disks are flushed", [&r] { r.mutable_power_off(); });
  verb("reset", "Press the reset button", [&r] { r.mutable_reset_now(); });
  verb("pause", "Stop its processors", [&r] { r.mutable_pause(); });
  verb("resume", "Let them go on", [&r] { r.mutable_resume(); });
  verb("sync-time", "Set the guest's clock to the host's", [&r] { r.mutable_sync_time(); });
  CLI::App* list = verb("kvp-list", "Key-value pairs (needs hv_kvp_daemon in the guest)",
                        [&r] { r.mutable_key_values()->set_operation(control::KeyValues::LIST); });
  list->add_option_function<uint32_t>(
          "--pool", [&r](uint32_t pool) { r.mutable_key_values()->set_pool(pool); },
          "0 written by the host, 1 by the guest, 2 what the guest says of itself")
      ->check(CLI::Range(0, 4));
  const auto text = [&r](CLI::App* sub, const char* name, auto set) {
    sub->add_option_function<std::string>(
           name, [&r, set](const std::string& value) { set(*r.mutable_key_values(), value); })
        ->required();
  };
  const auto key = [](control::KeyValues& k, const std::string& v) { k.set_key(v); };
  CLI::App* set = verb("kvp-set", "Write a pair where the guest can read it",
                       [&r] { r.mutable_key_values()->set_operation(control::KeyValues::SET); });
  text(set, "KEY", key);
  text(set, "VALUE", [](control::KeyValues& k, const std::string& v) { k.set_value(v); });
  AddDeviceVerbs(verb, o);
  AddGuestVerbs(verb, o);
  CLI::App* remove = verb("kvp-delete", "Remove such a pair", [&r] {
    r.mutable_key_values()->set_operation(control::KeyValues::DELETE);
  });
  text(remove, "KEY", key);
  return ctl;
}

struct SwitchVerbs {
  SwitchOptions options;
  const CLI::App *make = nullptr, *remove = nullptr, *list = nullptr;
};
void AddSwitch(CLI::App& root, SwitchVerbs& verbs) {
  SwitchOptions& o = verbs.options;
  CLI::App* command = root.add_subcommand("switch", "Virtual switches, which are Linux bridges");
  command->require_subcommand(1);
  CLI::App* make =
      command->add_subcommand("new", "Make a switch; partitions join by --net bridge=");
  make->add_option("NAME", o.name)->required();
  make->add_option("--type", o.type,
                   "private: partitions only; internal: and the host; external: and a network\n"
                   "interface; nat: internal, with masquerading, DHCP and DNS")
      ->check(CLI::IsMember({"private", "internal", "external", "nat"}))
      ->capture_default_str();
  make->add_option("--address", o.address, "The host's, like 10.0.0.1/24 (internal, nat)");
  make->add_option("--interface", o.interface, "Network interface to take in (external)");
  CLI::App* remove = command->add_subcommand("remove", "Remove a switch and what belongs to it");
  remove->add_option("NAME", o.name)->required();
  CLI::App* list = command->add_subcommand("list", "Show switches and their ports");
  list->add_flag("--json", o.json, "Machine-readable");
  verbs.make = make;
  verbs.remove = remove;
  verbs.list = list;
}

int Main(int argc, char** argv) {
  CLI::App root("Partita runs unmodified Hyper-V guests on Linux KVM.", "partita");
  root.require_subcommand(1);
  root.footer(
      "Anything else is the shell's: partita Get-Command, partita -c TEXT, partita SCRIPT,\n"
      "or a script at standard input. Its output is for people, or --json, --jsonl, --csv;\n"
      "partita Get-Help explains its language.");
  RunOptions run;
  AddRun(root, run);
  BenchOptions bench;
  const CLI::App* bench_storage = AddBench(root, bench);
  NetworkBenchOptions network;
  const CLI::App* bench_network = AddNetworkBench(*root.get_subcommand("bench"), network);
  CtlOptions ctl;
  const CLI::App* ctl_command = AddCtl(root, ctl);
  ConnectOptions connection;
  CLI::App* connect =
      root.add_subcommand("connect", "Connect to a port of a guest (`partita run --vsock`)");
  connect->add_option("PATH", connection.path, "The socket named by --vsock")->required();
  connect->add_option("PORT", connection.port)->required();
  const CLI::App* setup =
      root.add_subcommand("guest-setup", "Print a script that makes ssh work over --vsock");
  SwitchVerbs switches;
  AddSwitch(root, switches);
  CLI::App* host = root.add_subcommand("host", "Show what this host's KVM and kernel offer");
  bool json = false;
  host->add_flag("--json", json, "Machine-readable");
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  const auto commands = root.get_subcommands([](const CLI::App*) { return true; });
  const bool own = !arguments.empty() &&
                   std::any_of(commands.begin(), commands.end(), [&](const CLI::App* command) {
                     return command->check_name(arguments.front());
                   });
  if (!own && shell::TakesArguments(arguments)) return shell::RunProgram(arguments);
  try {
    root.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return root.exit(success);
  } catch (const CLI::ParseError& error) {
    return UsageError(root, error, argc, argv);
  }
  if (!run.config.empty()) {
    if (const int status = ApplyConfig(root, run, argc, argv); status != 0) return status;
  }
  if (connect->parsed()) return ConnectToGuest(connection);
  if (setup->parsed()) return PrintGuestSetup();
  if (ctl_command->parsed()) return RunCtl(ctl);
  if (switches.make->parsed()) return NewSwitch(switches.options);
  if (switches.remove->parsed()) return RemoveSwitch(switches.options);
  if (switches.list->parsed()) return ListSwitches(switches.options);
  if (host->parsed()) return ShowHost(json);
  if (bench_network->parsed()) return BenchNetwork(network);
  if (bench_storage->parsed()) return BenchStorage(bench);
  return RunPartition(run);
}

}  // namespace
}  // namespace partita

int main(int argc, char** argv) { return partita::Main(argc, argv); }
