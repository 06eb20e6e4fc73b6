#include <algorithm>

#include "tools/shell/cmdlets/cmdlets.h"
#include "tools/shell/help_text.h"
#include "tools/shell/session.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

ErrorRecord NotFound(std::string_view kind, const std::string& name) {
  ErrorRecord error;
  error.id = std::string(kind) + "NotFound";
  error.category = ErrorCategory::kNotFound;
  error.target = name;
  error.message = "there is no " + Lower(kind) + " '" + name + "'";
  return error;
}

// What the parameter `name` lists with wildcards; everything without it.
std::vector<std::string> Patterns(const Bound& bound, const char* name) {
  std::vector<std::string> patterns = bound.Texts(name);
  if (patterns.empty()) patterns.emplace_back("*");
  return patterns;
}

class GetCommand : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    for (const std::string& pattern : Patterns(bound, "Name")) {
      bool any = HasWildcard(pattern);
      for (const CmdletInfo& info : context.session().table().cmdlets()) {
        const bool alias =
            std::any_of(info.aliases.begin(), info.aliases.end(),
                        [&](const std::string& a) { return EqualsFold(a, pattern); });
        if (!alias && !WildcardMatch(pattern, info.Name())) continue;
        if (bound.Has("Verb") && !WildcardMatch(bound.Text("Verb"), info.verb)) continue;
        if (bound.Has("Noun") && !WildcardMatch(bound.Text("Noun"), info.noun)) continue;
        any = true;
        Object object("CmdletInfo");
        object.Add("Name", info.Name())
            .Add("Verb", info.verb)
            .Add("Noun", info.noun)
            .Add("Synopsis", info.synopsis)
            .Add("OutputType", info.output_type);
        Array syntax;
        for (std::string& line : SyntaxLines(info)) syntax.emplace_back(std::move(line));
        object.Add("Syntax", std::move(syntax), true);
        if (!context.Write(std::move(object))) return;
      }
      if (!any) context.Error(NotFound("Command", pattern));
    }
  }
};

class GetHelp : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    if (!bound.Has("Name")) return Lines(LanguageHelp(), context);
    const std::string name = bound.Text("Name");
    const CmdletInfo* info = context.session().table().Find(name);
    if (info == nullptr) {
      ErrorRecord error = NotFound("Command", name);
      error.next_step = "Get-Command lists what there is";
      return context.Error(std::move(error));
    }
    Lines(bound.Switch("Examples") ? ExampleLines(*info) : HelpLines(*info), context);
  }

 private:
  static void Lines(const std::vector<std::string>& lines, Context& context) {
    for (const std::string& line : lines) {
      if (!context.Write(line)) return;
    }
  }
};

class GetAlias : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    std::vector<std::pair<std::string, std::string>> aliases;
    for (const CmdletInfo& info : context.session().table().cmdlets()) {
      for (const std::string& alias : info.aliases) aliases.emplace_back(alias, info.Name());
    }
    std::sort(aliases.begin(), aliases.end());
    for (const std::string& pattern : Patterns(bound, "Name")) {
      // `?` is an alias of its own before it is a wildcard.
      bool any = pattern == "*";
      for (const auto& [alias, definition] : aliases) {
        if (pattern == "?" ? alias != pattern : !WildcardMatch(pattern, alias)) continue;
        any = true;
        Object object("AliasInfo");
        object.Add("Name", alias).Add("Definition", definition);
        if (!context.Write(std::move(object))) return;
      }
      if (!any && (pattern == "?" || !HasWildcard(pattern)))
        context.Error(NotFound("Alias", pattern));
    }
  }
};

class GetMember : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    const Value input = bound.Get("InputObject");
    const Object* object = input.IfObject();
    const std::string type = TypeName(input);
    // Objects of a type that was shown already say nothing new.
    if (!bound.Has("InputObject") || std::find(shown_.begin(), shown_.end(), type) != shown_.end())
      return;
    shown_.push_back(type);
    if (object == nullptr) {
      Object member("MemberInfo");
      member.Add("Name", "").Add("MemberType", "Value").Add("Type", type).Add("TypeName", type);
      context.Write(std::move(member));
      return;
    }
    for (const Property& p : object->properties) {
      Object member("MemberInfo");
      member.Add("Name", p.name)
          .Add("MemberType", p.hidden ? "Property (hidden)" : "Property")
          .Add("Type", TypeName(p.value))
          .Add("TypeName", type);
      if (!context.Write(std::move(member))) return;
    }
  }

 private:
  std::vector<std::string> shown_;
};

class GetVariable : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    for (const std::string& pattern : Patterns(bound, "Name")) {
      bool any = HasWildcard(pattern);
      for (const auto& [key, variable] : context.session().variables()) {
        if (!WildcardMatch(pattern, key) || key == "_") continue;
        any = true;
        Object object("Variable");
        object.Add("Name", variable.first).Add("Value", variable.second);
        if (!context.Write(std::move(object))) return;
      }
      if (!any) context.Error(NotFound("Variable", pattern));
    }
  }
};

Parameter Names(const char* help, const char* completer) {
  return {.name = "Name", .help = help, .position = 0, .array = true, .completer = completer};
}

}  // namespace

void AddHelpCmdlets(CmdletTable* table) {
  table->Add(
      {.verb = "Get",
       .noun = "Help",
       .aliases = {"help", "man"},
       .synopsis = "Explains a cmdlet, or the language.",
       .description = "Everything it says comes from the table that the shell works by.",
       .output_type = "String",
       .parameters =
           {{.name = "Name", .help = "The cmdlet or alias.", .position = 0, .completer = "Command"},
            {.name = "Examples", .type = ParameterType::kSwitch, .help = "The examples alone."}},
       .examples = {{"Get-Help Get-Alias -Examples", "How a cmdlet is used.",
                     "    PS> Get-Alias ft\n    What a short name stands for.\n\n      Name "
                     "Definition\n      ---- ----------\n      ft   Format-Table\n\n\n"}},
       .make = MakeCmdlet<GetHelp>});
  table->Add({.verb = "Get",
              .noun = "Command",
              .aliases = {"gcm"},
              .synopsis = "Lists cmdlets.",
              .description = "By name, verb or noun, with wildcards.",
              .output_type = "CmdletInfo",
              .parameters = {Names("Names, aliases or wildcards.", "Command"),
                             {.name = "Verb", .help = "Cmdlets of this verb."},
                             {.name = "Noun", .help = "Cmdlets of this noun."}},
              .examples = {{"Get-Command -Noun Csv", "What there is for a noun.",
                            "\nName          Synopsis\n----          --------\nConvertTo-Csv Makes "
                            "comma-separated lines of objects.\n\n"}},
              .make = MakeCmdlet<GetCommand>});
  table->Add({.verb = "Get",
              .noun = "Alias",
              .aliases = {"gal"},
              .synopsis = "Lists short names of cmdlets.",
              .description = "Aliases are fixed.",
              .output_type = "AliasInfo",
              .parameters = {Names("Aliases or wildcards.", "")},
              .examples = {{"Get-Alias ft", "What a short name stands for.",
                            "\nName Definition\n---- ----------\nft   Format-Table\n\n"}},
              .make = MakeCmdlet<GetAlias>});
  table->Add(
      {.verb = "Get",
       .noun = "Member",
       .aliases = {"gm"},
       .synopsis = "Shows what properties objects have.",
       .description = "Once for each type that comes down the pipeline.",
       .output_type = "MemberInfo",
       .parameters = {InputParameter()},
       .examples =
           {{"Get-Alias ft | Get-Member", "The properties of an object.",
             "\nName       MemberType Type   TypeName\n----       ---------- ----   --------\nName "
             "      Property   String AliasInfo\nDefinition Property   String AliasInfo\n\n"}},
       .make = MakeCmdlet<GetMember>});
  table->Add({.verb = "Get",
              .noun = "Variable",
              .aliases = {"gv"},
              .synopsis = "Lists variables.",
              .description = "Those that were assigned in this session.",
              .output_type = "Variable",
              .parameters = {Names("Names or wildcards, without the dollar.", "Variable")},
              .examples = {{"$size = 2KB; Get-Variable size", "What a variable holds.",
                            "\nName Value\n---- -----\nsize 2048\n\n"}},
              .make = MakeCmdlet<GetVariable>});
}

}  // namespace partita::shell
