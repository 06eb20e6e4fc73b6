#include "tools/shell/program.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <utility>

#include "base/status.h"
#include "base/unique_fd.h"
#include "tools/shell/client/client.h"
#include "tools/shell/client/endpoint.h"
#include "tools/shell/cmdlets/cmdlets.h"
#include "tools/shell/command_line.h"
#include "tools/shell/parser.h"
#include "tools/shell/prompt.h"
#include "tools/shell/session.h"
#include "tools/shell/terminal_console.h"

namespace partita::shell {
namespace {

CancelToken* g_cancel = nullptr;  // a signal handler has nowhere else to look
void OnInterrupt(int /*signal*/) { g_cancel->Cancel(); }

bool IsRegularFile(const std::string& path) {
  struct stat info {};
  return stat(path.c_str(), &info) == 0 && !S_ISDIR(info.st_mode);
}

// All of a script; more than the parser takes is an error before it is read.
absl::StatusOr<std::string> ReadScript(int fd, const std::string& name) {
  std::string text;
  std::array<char, 16 << 10> buffer{};
  for (;;) {
    const ssize_t got = read(fd, buffer.data(), buffer.size());
    if (got == 0) return text;
    if (got < 0) return SystemError("reading " + name);
    text.append(buffer.data(), static_cast<size_t>(got));
    if (text.size() > kMaxSource) return InvalidArgument(name + " is longer than 1 MiB");
  }
}

absl::StatusOr<std::string> TextOf(const Invocation& invocation) {
  switch (invocation.kind) {
    case Invocation::Kind::kText:
      return invocation.text;
    case Invocation::Kind::kStandardInput:
      return ReadScript(STDIN_FILENO, "standard input");
    case Invocation::Kind::kFile:
      break;
  }
  const UniqueFd file(open(invocation.text.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return SystemError("opening " + invocation.text);
  return ReadScript(file.get(), invocation.text);
}

}  // namespace

CmdletTable AllCmdlets() {
  CmdletTable table;
  AddVmCmdlets(&table);
  AddPowerCmdlets(&table);
  AddDiskCmdlets(&table);
  AddAdapterCmdlets(&table);
  AddHardwareCmdlets(&table);
  AddInfoCmdlets(&table);
  AddConsoleCmdlets(&table);
  AddJobCmdlets(&table);
  AddLanguageCmdlets(&table);
  return table;
}

bool TakesArguments(const std::vector<std::string>& arguments) {
  return IsForShell(arguments, AllCmdlets(), IsRegularFile);
}

int RunProgram(const std::vector<std::string>& arguments) {
  const CmdletTable table = AllCmdlets();
  const ViewTable views = DefaultViews();
  CancelToken cancel;
  g_cancel = &cancel;
  struct sigaction action {};
  action.sa_handler = OnInterrupt;  // no SA_RESTART: what waits is to wake up
  sigaction(SIGINT, &action, nullptr);
  TerminalConsole console(&cancel);
  SessionOptions options = console.Options();
  Result<Invocation> invocation = ParseCommandLine(arguments, table, IsRegularFile);
  if (!invocation.ok()) {
    Session(&table, &views, &console, &cancel, options).Report(invocation.error(), "");
    return static_cast<int>(ExitStatus::kUsage);
  }
  options.format = invocation->format;
  options.json_errors = invocation->json_errors;
  Session session(&table, &views, &console, &cancel, options);
  Client client(FindEndpoint(ThisProcess()), &cancel);
  session.Use(&client);
  const bool prompt = invocation->kind == Invocation::Kind::kStandardInput && console.interactive();
  if (prompt && RunPrompt(&session, &console, &cancel)) return 0;
  const absl::StatusOr<std::string> text = TextOf(*invocation);
  if (!text.ok()) {
    session.Report({.id = "ScriptNotRead", .message = std::string(Message(text.status()))}, "");
    return static_cast<int>(ExitStatus::kUsage);
  }
  Array script_arguments;
  for (const std::string& word : invocation->arguments) script_arguments.emplace_back(word);
  session.Assign("args", std::move(script_arguments));
  return static_cast<int>(session.Run(*text));
}

}  // namespace partita::shell
