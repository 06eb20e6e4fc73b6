// Enter-VMConsole and Watch-VM: what takes the whole terminal.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "tools/host/terminal.h"
#include "tools/shell/cmdlets/cmdlets.h"
#include "tools/shell/cmdlets/vm_common.h"
#include "tools/shell/render.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

// Sends all of it; false once the other end is gone.
bool SendAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t sent = send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    text.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

// Carries bytes both ways until the guest's end, the user's way out or the end of his input.
void Carry(int console, bool write, Context& context) {
  const RawTerminal raw;
  EscapeFilter escape;
  std::array<char, 16 << 10> buffer{};
  bool input = true;
  for (;;) {
    std::array<pollfd, 3> wanted = {{{console, POLLIN, 0},
                                     {input ? STDIN_FILENO : -1, POLLIN, 0},
                                     {context.session().cancel().fd(), POLLIN, 0}}};
    if (poll(wanted.data(), wanted.size(), -1) < 0 && errno != EINTR) return;
    if (context.session().cancelled()) return;
    if (wanted[0].revents != 0) {
      const ssize_t got = recv(console, buffer.data(), buffer.size(), 0);
      if (got <= 0) return;
      // The guest's own terminal control is what a console is for.
      context.session().console().Out({buffer.data(), static_cast<size_t>(got)});
      context.session().console().Flush();
    }
    if (wanted[1].revents == 0) continue;
    const ssize_t got = read(STDIN_FILENO, buffer.data(), buffer.size());
    if (got <= 0) {
      input = false;
      continue;
    }
    bool leave = false;
    const std::string typed = escape.Feed({buffer.data(), static_cast<size_t>(got)}, &leave);
    if (write && !SendAll(console, typed)) return;
    if (leave) return;
  }
}

void EnterConsole(const Bound& bound, Context& context, const Json& vm) {
  const bool write = !bound.Switch("ReadOnly");
  Service* service = context.session().service();
  if (service == nullptr) return context.Error(Session::NoService());
  Result<UniqueFd> console = service->OpenConsole(VmPath(vm, "/console"), write ? "write" : "read");
  if (!console.ok()) return context.Error(std::move(console.error()));
  std::string note = "Console of " + TextAt(vm, "name");
  note += write ? "" : " (reading)";
  context.session().Note(note + "; Ctrl-A x leaves it, Ctrl-A a sends Ctrl-A.");
  Carry(console->get(), write, context);
  context.session().Note("");
  context.session().Note("Left the console of " + TextAt(vm, "name") + ".");
}

class WatchVm : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    const bool terminal = context.session().options().terminal;
    const int64_t count = bound.Int("Count", 0);
    const auto interval = std::chrono::milliseconds(
        bound.Has("Interval")
            ? ToTimeSpan(bound.Get("Interval")).value_or(TimeSpan{2000}).milliseconds
            : 2000);
    for (int64_t n = 1; !context.stopped(); ++n) {
      const auto answer = Ask(context, "GET", "/v1/vms");
      if (!answer) return;
      const std::vector<std::string> lines = Lines(bound, context, ArrayAt(*answer, "vms"));
      if (terminal) {
        // From the top, each line to its end, and nothing of before below.
        std::string screen = n == 1 ? "\x1B[2J\x1B[H" : "\x1B[H";
        for (const std::string& line : lines) screen += line + "\x1B[K\n";
        context.session().console().Out(screen + "\x1B[J");
      } else {
        for (const std::string& line : lines) {
          if (!context.Write(line)) return;
        }
      }
      if (count > 0 && n >= count) return;
      if (!context.session().cancel().Sleep(std::max(interval, std::chrono::milliseconds(100))))
        return;
    }
  }

 private:
  static std::vector<std::string> Lines(const Bound& bound, Context& context, const Json& vms) {
    std::vector<Value> rows;
    std::vector<std::string> patterns = bound.Texts("Name");
    if (patterns.empty()) patterns.emplace_back("*");
    size_t running = 0;
    for (const Json& vm : vms) {
      const std::string name = TextAt(vm, "name");
      if (std::none_of(patterns.begin(), patterns.end(),
                       [&](const std::string& p) { return WildcardMatch(p, name); }))
        continue;
      if (TextAt(vm, "state") == "Running") ++running;
      rows.emplace_back(VmObject(vm));
    }
    const std::string key = bound.Has("SortBy") ? bound.Text("SortBy") : "CPUUsage";
    const bool by_name = key == "Name" || key == "State";
    std::stable_sort(rows.begin(), rows.end(), [&](const Value& a, const Value& b) {
      const int order = SortOrder(Member(a, key), Member(b, key));
      return by_name ? order < 0 : order > 0;  // the busiest above
    });
    std::vector<std::string> lines = {std::to_string(rows.size()) + " machines, " +
                                      std::to_string(running) + " running"};
    const View* view = context.session().views().Find("VM");
    for (std::string& line : TableLines(rows, view->columns, context.session().width()))
      lines.push_back(std::move(line));
    return lines;
  }
};

}  // namespace

void AddConsoleCmdlets(CmdletTable* table) {
  table->Add({.verb = "Enter",
              .noun = "VMConsole",
              .synopsis = "Connects the terminal to a machine's console.",
              .description =
                  "What was on it before is shown first. Ctrl-A x leaves it. One writes, "
                  "others may read (-ReadOnly).",
              .output_type = "None",
              .sets = VmSets(),
              .parameters = DeviceParameters({Flag("ReadOnly", "Looks on, and types nothing.")}),
              .examples = {{"Enter-VMConsole web1 -ReadOnly", "Looks on.", "web1 login: "}},
              .make = EachVm(EnterConsole)});
  table->Add(
      {.verb = "Watch",
       .noun = "VM",
       .synopsis = "Shows virtual machines again and again, the busiest first.",
       .description = "Until Ctrl-C, or -Count times.",
       .output_type = "String",
       .parameters = {{.name = "Name",
                       .help = "These machines alone; wildcards are welcome.",
                       .position = 0,
                       .array = true,
                       .completer = "VM"},
                      {.name = "SortBy",
                       .type = ParameterType::kEnum,
                       .help = "What they are sorted by.",
                       .values = {"CPUUsage", "MemoryAssigned", "Uptime", "Name", "State"}},
                      {.name = "Interval",
                       .type = ParameterType::kTimeSpan,
                       .help = "Seconds between two looks; 2 if nothing is said."},
                      {.name = "Count", .type = ParameterType::kInt, .help = "How often."}},
       .examples = {{"Watch-VM web* -Count 1 -SortBy Name", "Once.",
                     "2 machines, 1 running\nName State   CPUUsage(%) MemoryAssigned(M)   Uptime "
                     "Status             Version\n---- -----   ----------- -----------------   "
                     "------ ------             -------\nweb1 Running           7               "
                     "512 01:02:03 Operating normally 1.0\nweb2 Off               0           "
                     "      0 00:00:00 Operating normally 1.0\n"}},
       .make = MakeCmdlet<WatchVm>});
}

}  // namespace partita::shell
