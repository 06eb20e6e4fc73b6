// shell-text KIND: prints what is made from the cmdlet table, at build time.
#include <cstdio>
#include <string>

#include "tools/shell/help_text.h"
#include "tools/shell/powershell_module.h"
#include "tools/shell/program.h"

int main(int argc, char** argv) {
  const partita::shell::CmdletTable table = partita::shell::AllCmdlets();
  const std::string kind = argc > 1 ? argv[1] : "";
  std::string text;
  if (kind == "man") text = partita::shell::ManPage(table);
  if (kind == "bash") text = partita::shell::BashCompletion(table);
  if (kind == "psm1") text = partita::shell::PowerShellModule(table);
  if (kind == "psd1") text = partita::shell::PowerShellManifest(table, argc > 2 ? argv[2] : "0");
  if (text.empty()) {
    fputs("usage: shell-text man|bash|psm1|psd1 [VERSION]\n", stderr);
    return 2;
  }
  return fwrite(text.data(), 1, text.size(), stdout) == text.size() && fflush(stdout) == 0 ? 0 : 1;
}
