#include "tools/shell/help_text.h"

#include <algorithm>
#include <set>

#include "tools/shell/text.h"

namespace partita::shell {
namespace {

std::string SyntaxOf(const Parameter& p) {
  std::string value;
  if (p.type == ParameterType::kEnum) {
    value = "<" + Join(p.values, "|") + (p.array ? "[]>" : ">");
  } else if (p.type != ParameterType::kSwitch) {
    value = "<" +
            (p.type == ParameterType::kObject ? p.object_type : std::string(TypeLabel(p.type))) +
            (p.array ? "[]>" : ">");
  }
  std::string name = "-" + p.name;
  if (p.position >= 0) name = "[" + name + "]";
  if (!value.empty()) name += " " + value;
  return p.mandatory ? name : "[" + name + "]";
}

bool InSet(const Parameter& p, const std::string& set) {
  return p.sets.empty() || std::find(p.sets.begin(), p.sets.end(), set) != p.sets.end();
}

std::string Indented(const std::string& text) { return "    " + text; }

std::vector<std::string> SplitLines(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    lines.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return lines;
}

// Roff: a backslash and a leading dot or quote are commands.
std::string Roff(std::string_view text) {
  std::string out;
  if (!text.empty() && (text[0] == '.' || text[0] == '\'')) out = "\\&";
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else {
      out += c;
    }
  }
  return out;
}

// Names and values of the table are words; what is none would be a hole in the script.
bool ShellWord(const std::string& word) {
  return !word.empty() && std::all_of(word.begin(), word.end(),
                                      [](char c) { return IsNameChar(c) || c == '-' || c == '.'; });
}

}  // namespace

std::vector<std::string> SyntaxLines(const CmdletInfo& info) {
  std::vector<std::string> sets = info.sets;
  if (sets.empty()) sets.emplace_back();
  std::vector<std::string> lines;
  for (const std::string& set : sets) {
    std::vector<const Parameter*> order;
    for (const Parameter& p : info.parameters) {
      if (InSet(p, set)) order.push_back(&p);
    }
    const auto rank = [](const Parameter* p) {
      return p->position >= 0 ? p->position : p->mandatory ? 100 : 101;
    };
    std::stable_sort(order.begin(), order.end(),
                     [&](const Parameter* a, const Parameter* b) { return rank(a) < rank(b); });
    std::string line = info.Name();
    for (const Parameter* p : order) line += " " + SyntaxOf(*p);
    if (info.should_process) line += " [-WhatIf] [-Confirm]";
    lines.push_back(std::move(line));
  }
  return lines;
}

std::vector<std::string> ExampleLines(const CmdletInfo& info) {
  std::vector<std::string> lines;
  for (const Example& example : info.examples) {
    lines.push_back(Indented("PS> " + example.command));
    lines.push_back(Indented(example.text));
    for (const std::string& line : SplitLines(example.output))
      lines.push_back(line.empty() ? "" : Indented("  " + line));
    lines.emplace_back();
  }
  return lines;
}

std::vector<std::string> HelpLines(const CmdletInfo& info) {
  std::vector<std::string> lines = {
      "", "NAME", Indented(info.Name()), "", "SYNOPSIS", Indented(info.synopsis), "", "SYNTAX"};
  for (const std::string& line : SyntaxLines(info)) lines.push_back(Indented(line));
  if (!info.aliases.empty())
    lines.insert(lines.end(), {"", "ALIASES", Indented(Join(info.aliases, ", "))});
  lines.insert(lines.end(), {"", "DESCRIPTION", Indented(info.description), "", "PARAMETERS"});
  for (const Parameter& p : AllParameters(info)) {
    std::string line = SyntaxOf(p);
    for (const std::string& alias : p.aliases) line += ", -" + alias;
    lines.push_back(Indented(line));
    lines.push_back(Indented("    " + p.help));
  }
  lines.insert(lines.end(), {"", "OUTPUT", Indented(info.output_type), "", "EXAMPLES"});
  for (std::string& line : ExampleLines(info)) lines.push_back(std::move(line));
  return lines;
}

std::vector<std::string> LanguageHelp() {
  return {
      "",
      "Commands are Verb-Noun, without case: Get-Command lists them, Get-Help NAME explains one,",
      "Get-Help NAME -Examples shows it at work. Parameters may be abbreviated.",
      "",
      "    pipelines      Get-VM | Where-Object State -eq Running | Stop-VM",
      "    arrays         a,b   @(1;2)   $x[0]   $x[-1]",
      "    wildcards      web*  web?  [a-c]*",
      "    sizes          512KB 512MB 40GB 2TB",
      "    constants      $true $false $null",
      "    text           'as it is'   \"with $x and $($vm.State)\"",
      "    variables      $vm = Get-VM web; $vm.State",
      "    script blocks  { $_.State -eq 'Running' }",
      "    operators      -eq -ne -gt -ge -lt -le -like -match -in -contains (-notlike ...) -and "
      "-or -not + - * / %",
      "",
      "There are no functions and no loops: pipelines with Where-Object and ForEach-Object do "
      "their work.",
      ""};
}

std::string ManPage(const CmdletTable& table) {
  std::string out =
      ".TH PARTITA\\-CMDLETS 7 \"\" Partita \"Cmdlets\"\n.SH NAME\npartita\\-cmdlets \\- cmdlets "
      "of the partita shell\n.SH LANGUAGE\n.nf\n";
  for (const std::string& line : LanguageHelp()) out += Roff(line) + "\n";
  out += ".fi\n";
  for (const CmdletInfo& info : table.cmdlets()) {
    out += ".SH " + Roff(info.Name()) + "\n" + Roff(info.synopsis) + "\n.PP\n.nf\n";
    for (const std::string& line : SyntaxLines(info)) out += Roff(line) + "\n";
    out += ".fi\n.PP\n" + Roff(info.description) + "\n";
    for (const Parameter& p : info.parameters)
      out += ".TP\n" + Roff("-" + p.name) + "\n" + Roff(p.help) + "\n";
    out += ".PP\nExamples:\n.nf\n";
    for (const std::string& line : ExampleLines(info)) out += Roff(line) + "\n";
    out += ".fi\n";
  }
  return out;
}

std::string BashCompletion(const CmdletTable& table) {
  std::set<std::string> names;
  std::string cases;
  for (const CmdletInfo& info : table.cmdlets()) {
    std::vector<std::string> words;
    std::string values;
    for (const Parameter& p : AllParameters(info)) {
      if (!ShellWord(p.name)) continue;
      words.push_back("-" + p.name);
      std::vector<std::string> own;
      std::copy_if(p.values.begin(), p.values.end(), std::back_inserter(own), ShellWord);
      if (!own.empty())
        values += "        -" + Lower(p.name) + ") words='" + Join(own, " ") + "' ;;\n";
      if (p.type == ParameterType::kPath)
        values += "        -" + Lower(p.name) +
                  ") COMPREPLY=($(compgen -f -- \"$current\")); return ;;\n";
    }
    if (!ShellWord(info.Name())) continue;
    names.insert(info.Name());
    cases += "    " + Lower(info.Name()) + ")\n      words='" + Join(words, " ") +
             "'\n      case ${previous,,} in\n" + values + "      esac\n      ;;\n";
  }
  return "# bash completion of partita, made from the cmdlet table\n"
         "_partita() {\n"
         "  local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} words=''\n"
         "  local LC_ALL=C\n"
         "  if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
         "    words='" +
         Join({names.begin(), names.end()}, " ") +
         "'\n"
         "  else\n    case ${COMP_WORDS[1],,} in\n" +
         cases +
         "    esac\n  fi\n"
         "  local word\n  COMPREPLY=()\n"
         "  for word in $words; do\n"
         "    [[ ${word,,} == \"${current,,}\"* ]] && COMPREPLY+=(\"$word\")\n"
         "  done\n}\ncomplete -F _partita partita\n";
}

}  // namespace partita::shell
