// What `partita` was asked for on a system's command line, where it is the shell's: a cmdlet, a
// line, a script file, standard input or a prompt. Pure but for the look whether a file is there;
// any thread.
#ifndef PARTITA_TOOLS_SHELL_COMMAND_LINE_H_
#define PARTITA_TOOLS_SHELL_COMMAND_LINE_H_

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "tools/shell/cmdlet.h"
#include "tools/shell/session.h"

namespace partita::shell {

struct Invocation {
  enum class Kind { kStandardInput, kText, kFile };
  Kind kind = Kind::kStandardInput;
  std::string text;                    // kText; the path for kFile
  std::vector<std::string> arguments;  // of a script: its $args
  OutputFormat format = OutputFormat::kText;
  bool json_errors = false;
};

using IsFile = std::function<bool(const std::string& path)>;

// Whether the arguments (without the program's name) are the shell's to take: none at all, an
// option of the shell, a cmdlet, an alias, a line or a script file.
bool IsForShell(const std::vector<std::string>& arguments, const CmdletTable& table,
                const IsFile& is_file);
// A usage error is an ErrorRecord of kInvalidArgument.
Result<Invocation> ParseCommandLine(const std::vector<std::string>& arguments,
                                    const CmdletTable& table, const IsFile& is_file);

// Arguments, which the system's shell has already taken apart, as one line of the language: what
// was one argument stays one. What only the language means (`{...}`, `$x`, `|`) is left as it is.
std::string LineOf(const std::vector<std::string>& arguments);

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_COMMAND_LINE_H_
