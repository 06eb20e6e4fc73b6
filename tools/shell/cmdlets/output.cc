#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "base/status.h"
#include "base/unique_fd.h"
#include "tools/shell/cmdlets/cmdlets.h"
#include "tools/shell/operators.h"
#include "tools/shell/render.h"
#include "tools/shell/session.h"
#include "tools/shell/text.h"

namespace partita::shell {
namespace {

class Collecting : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    if (!bound.Has("InputObject")) return;
    items_.push_back(bound.Get("InputObject"));
    if (items_.size() > kMaxElements)
      context.Terminate(InvalidOperation("TooLarge", "more than a million objects are not kept"));
  }

 protected:
  static bool WriteLines(const std::vector<std::string>& lines, Context& context) {
    for (const std::string& line : lines) {
      if (!context.Write(line)) return false;
    }
    return true;
  }
  std::vector<Value> items_;
};

class FormatTable : public Collecting {
 public:
  void End(const Bound& bound, Context& context) override {
    if (items_.empty()) return;
    const View* view = context.session().views().Find(TypeName(items_.front()));
    std::vector<Column> columns;
    if (!bound.Has("Property") && view != nullptr) {
      columns = view->columns;
    } else {
      columns = ColumnsFor(items_, PropertyNames(items_.front(), bound.Texts("Property")));
    }
    if (columns.empty()) {
      std::vector<std::string> lines;
      for (const Value& item : items_) lines.push_back(ToDisplay(item));
      WriteLines(lines, context);
      return;
    }
    if (!context.Write("")) return;
    if (WriteLines(TableLines(items_, columns, context.session().width()), context))
      context.Write("");
  }
};

class FormatList : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    if (!bound.Has("InputObject")) return;
    const Value input = bound.Get("InputObject");
    const std::vector<std::string> names = PropertyNames(input, bound.Texts("Property"));
    if (names.empty()) {
      context.Write(ToDisplay(input));
      return;
    }
    if (!any_ && !context.Write("")) return;
    any_ = true;
    for (const std::string& line : ListLines(input, names, context.session().width())) {
      if (!context.Write(line)) return;
    }
    context.Write("");
  }

 private:
  bool any_ = false;
};

class ConvertToJson : public Collecting {
 public:
  void End(const Bound& bound, Context& context) override {
    const bool indent = !bound.Switch("Compress");
    if (items_.empty() && !bound.Switch("AsArray")) return;
    const bool one = items_.size() == 1 && !bound.Switch("AsArray");
    context.Write(ToJson(one ? items_.front() : Value(std::move(items_)), indent));
  }
};

class ConvertToCsv : public Cmdlet {
 public:
  void Begin(const Bound& /*bound*/, Context& context) override {
    renderer_ = MakeCsvRenderer(
        [&context](std::string_view line) { context.Write(line.substr(0, line.size() - 1)); });
  }
  void Process(const Bound& bound, Context& /*context*/) override {
    if (bound.Has("InputObject")) renderer_->Add(bound.Get("InputObject"));
  }

 private:
  std::unique_ptr<Renderer> renderer_;
};

// As text off a terminal: the same whatever the window's width.
class OutString : public Collecting {
 public:
  void End(const Bound& bound, Context& context) override { context.Write(Text(bound, context)); }

 protected:
  std::string Text(const Bound& bound, Context& context) {
    std::string text;
    const auto renderer = MakeTextRenderer(
        context.session().views(), static_cast<size_t>(std::max<int64_t>(0, bound.Int("Width", 0))),
        false, [&](std::string_view part) { text += part; });
    for (const Value& item : items_) renderer->Add(item);
    renderer->Finish();
    return text;
  }
};

class OutFile : public OutString {
 public:
  void End(const Bound& bound, Context& context) override {
    const std::string path = bound.Text("FilePath");
    if (!context.ShouldProcess(path, "Out-File")) return;
    const std::string text = Text(bound, context);
    const int mode = bound.Switch("Append")      ? O_APPEND
                     : bound.Switch("NoClobber") ? O_EXCL
                                                 : O_TRUNC;
    const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | mode, 0666));
    bool ok = file.get() >= 0;
    for (size_t done = 0; ok && done < text.size();) {
      const ssize_t written = ::write(file.get(), text.data() + done, text.size() - done);
      if (written < 0 && errno == EINTR) continue;
      ok = written > 0;
      if (ok) done += static_cast<size_t>(written);
    }
    if (ok) return;
    const absl::Status status = SystemError("writing " + path);
    ErrorRecord error;
    error.id = "FileNotWritten";
    error.category = absl::IsPermissionDenied(status) ? ErrorCategory::kPermissionDenied
                     : absl::IsNotFound(status)       ? ErrorCategory::kNotFound
                                                      : ErrorCategory::kNotSpecified;
    error.target = path;
    error.message = std::string(Message(status));
    context.Error(std::move(error));
  }
};

class WriteOutput : public Cmdlet {
 public:
  void Process(const Bound& bound, Context& context) override {
    for (const Value& value : bound.Values("InputObject")) {
      if (!context.Write(value)) return;
    }
  }
};

const char* const kShown = "What to show; wildcards are allowed, * is everything.";
Parameter Properties() {
  return {.name = "Property", .help = kShown, .position = 0, .array = true};
}
Parameter Flag(const char* name, const char* help) {
  return {.name = name, .type = ParameterType::kSwitch, .help = help};
}
Parameter Width() {
  return {.name = "Width",
          .type = ParameterType::kInt,
          .help = "Columns the text is to fit in; without it nothing is cut."};
}

void AddFormat(CmdletTable* table) {
  table->Add({.verb = "Format",
              .noun = "Table",
              .aliases = {"ft"},
              .synopsis = "Shows objects as a table.",
              .description = "Comes last: what it makes is text.",
              .output_type = "String",
              .parameters = {Properties(), InputParameter()},
              .examples = {{"'a','bcd' | Group-Object | Format-Table Name,Count",
                            "Columns of one's own choice.",
                            "\nName Count\n---- -----\na        1\nbcd      1\n\n"}},
              .make = MakeCmdlet<FormatTable>});
  table->Add({.verb = "Format",
              .noun = "List",
              .aliases = {"fl"},
              .synopsis = "Shows an object's properties one below the other.",
              .description = "Format-List * shows everything, hidden properties too.",
              .output_type = "String",
              .parameters = {Properties(), InputParameter()},
              .examples = {{"1,2 | Measure-Object -Sum | Format-List", "One object in full.",
                            "\nCount : 2\nSum   : 3\n\n"}},
              .make = MakeCmdlet<FormatList>});
}

void AddConvert(CmdletTable* table) {
  table->Add(
      {.verb = "ConvertTo",
       .noun = "Json",
       .synopsis = "Makes JSON of objects.",
       .description = "One object is an object, several are an array. Sizes are numbers of bytes, "
                      "dates ISO 8601 in UTC.",
       .output_type = "String",
       .parameters = {Flag("Compress", "All on one line."),
                      Flag("AsArray", "An array even of one object."), InputParameter()},
       .examples = {{"1,2 | Measure-Object -Sum | ConvertTo-Json -Compress", "For another program.",
                     "{\"Count\":2,\"Sum\":3}\n"},
                    {"1,'a' | ConvertTo-Json", "Several are an array.", "[\n  1,\n  \"a\"\n]\n"}},
       .make = MakeCmdlet<ConvertToJson>});
  table->Add({.verb = "ConvertTo",
              .noun = "Csv",
              .synopsis = "Makes comma-separated lines of objects.",
              .description = "The first object names the columns; every field is quoted.",
              .output_type = "String",
              .parameters = {InputParameter()},
              .examples = {{"1,2 | Measure-Object -Sum | ConvertTo-Csv", "For a spreadsheet.",
                            "\"Count\",\"Sum\"\n\"2\",\"3\"\n"}},
              .make = MakeCmdlet<ConvertToCsv>});
}

void AddOut(CmdletTable* table) {
  table->Add(
      {.verb = "Out",
       .noun = "String",
       .synopsis = "Makes one text of what would be on the screen.",
       .description = "Does not depend on the width of the terminal.",
       .output_type = "String",
       .parameters = {Width(), InputParameter()},
       .examples = {{"$text = 1,2 | Out-String; $text.Length", "Text to go on with.", "4\n"}},
       .make = MakeCmdlet<OutString>});
  table->Add({.verb = "Out",
              .noun = "File",
              .synopsis = "Writes what would be on the screen to a file.",
              .description = "Does not depend on the width of the terminal.",
              .output_type = "None",
              .parameters = {{.name = "FilePath",
                              .type = ParameterType::kPath,
                              .help = "The file.",
                              .position = 0,
                              .mandatory = true,
                              .aliases = {"Path"}},
                             Flag("Append", "Adds to the file."),
                             Flag("NoClobber", "Leaves a file that is there alone."),
                             Width(),
                             InputParameter()},
              .examples = {{"Get-Alias | Out-File aliases.txt -WhatIf", "What it would do.", ""}},
              .should_process = true,
              .make = MakeCmdlet<OutFile>});
  table->Add({.verb = "Write",
              .noun = "Output",
              .aliases = {"echo", "write"},
              .synopsis = "Passes values on.",
              .description = "An array goes down the pipeline element by element.",
              .output_type = "Object",
              .parameters = {{.name = "InputObject",
                              .type = ParameterType::kAny,
                              .help = "What to pass on.",
                              .position = 0,
                              .mandatory = true,
                              .from_pipeline = true}},
              .examples = {{"Write-Output a,2GB", "Values as they are.", "a\n2147483648\n"}},
              .make = MakeCmdlet<WriteOutput>});
}

}  // namespace

Parameter InputParameter() {
  return {.name = "InputObject",
          .type = ParameterType::kAny,
          .help = "The objects; as a rule they come down the pipeline.",
          .from_pipeline = true};
}

void AddOutputCmdlets(CmdletTable* table) {
  AddFormat(table);
  AddConvert(table);
  AddOut(table);
}

void AddLanguageCmdlets(CmdletTable* table) {
  AddFilterCmdlets(table);
  AddOrderCmdlets(table);
  AddOutputCmdlets(table);
  AddHelpCmdlets(table);
}

}  // namespace partita::shell
