#include "tools/shell/render.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "tools/shell/text.h"

namespace partita::shell {
namespace {

using Json = nlohmann::ordered_json;
constexpr size_t kTableBatch = 1000;  // rows that share one measure of widths
constexpr int kMaxJsonDepth = 32;

Json JsonOf(const Value& value, int depth) {
  if (value.is_null()) return nullptr;
  if (const auto* v = value.If<bool>()) return *v;
  if (const auto* v = value.If<int64_t>()) return *v;
  if (const auto* v = value.If<Size>()) return v->bytes;
  if (const auto* v = value.If<double>())
    return std::isfinite(*v) ? Json(*v) : Json(DoubleText(*v));
  const Array* array = value.IfArray();
  const Object* object = value.IfObject();
  if ((array == nullptr && object == nullptr) || depth > kMaxJsonDepth) return ToText(value);
  if (array != nullptr) {
    Json out = Json::array();
    for (const Value& element : *array) out.push_back(JsonOf(element, depth + 1));
    return out;
  }
  Json out = Json::object();
  for (const Property& p : object->properties) {
    // Names are text like any other; bytes that are no UTF-8 are replaced in the dump.
    out[p.name] = JsonOf(p.value, depth + 1);
  }
  return out;
}

class JsonRenderer : public Renderer {
 public:
  explicit JsonRenderer(TextSink out) : out_(std::move(out)) {}
  void Add(const Value& value) override {
    out_(any_ ? ",\n" : "[\n");
    any_ = true;
    out_(ToJson(value, false));
  }
  void Finish() override { out_(any_ ? "\n]\n" : "[]\n"); }

 private:
  TextSink out_;
  bool any_ = false;
};

class JsonLinesRenderer : public Renderer {
 public:
  explicit JsonLinesRenderer(TextSink out) : out_(std::move(out)) {}
  void Add(const Value& value) override { out_(ToJson(value, false) + "\n"); }
  void Finish() override {}

 private:
  TextSink out_;
};

class CsvRenderer : public Renderer {
 public:
  explicit CsvRenderer(TextSink out) : out_(std::move(out)) {}
  void Add(const Value& value) override {
    if (columns_.empty()) {
      columns_ = PropertyNames(value, {"*"});
      if (columns_.empty()) columns_ = {"Value"};
      out_(CsvLine(columns_) + "\n");
    }
    std::vector<std::string> fields;
    for (const std::string& column : columns_) {
      fields.push_back(ToText(value.IfObject() == nullptr ? value : Member(value, column)));
    }
    out_(CsvLine(fields) + "\n");
  }
  void Finish() override {}

 private:
  TextSink out_;
  std::vector<std::string> columns_;
};

class TextRenderer : public Renderer {
 public:
  TextRenderer(const ViewTable& views, size_t width, bool terminal, TextSink out)
      : views_(views), width_(width), terminal_(terminal), out_(std::move(out)) {}

  void Add(const Value& value) override {
    const Object* object = value.IfObject();
    if (object == nullptr) {
      Flush();
      if (const Array* array = value.IfArray()) {
        for (const Value& element : *array) out_(Plain(element) + "\n");
      } else {
        out_(Plain(value) + "\n");
      }
      return;
    }
    std::string shape = object->type_name;
    for (const std::string& name : PropertyNames(value, {})) shape += '\n' + name;
    if (shape != shape_ || rows_.size() >= kTableBatch) Flush();
    shape_ = std::move(shape);
    rows_.push_back(value);
  }
  void Finish() override { Flush(); }
  void ShowNow() override {
    if (rows_.empty()) return;
    const std::vector<Value> rows = std::exchange(rows_, {});
    const View* view = views_.Find(rows.front().IfObject()->type_name);
    const std::vector<std::string> names = PropertyNames(rows.front(), {});
    const std::vector<std::string> lines =
        TableLines(rows, view != nullptr ? view->columns : ColumnsFor(rows, names), width_);
    std::string text = headed_ ? "" : "\n";
    // The titles stand above the first rows alone.
    for (size_t i = headed_ ? 2 : 0; i < lines.size(); ++i) text += lines[i] + "\n";
    headed_ = true;
    out_(text);
  }

 private:
  std::string Plain(const Value& value) const {
    const std::string text = ToDisplay(value);
    return terminal_ ? Printable(text, true) : text;
  }
  void Flush() {
    headed_ = false;
    if (rows_.empty()) return;
    const std::vector<Value> rows = std::exchange(rows_, {});
    const View* view = views_.Find(rows.front().IfObject()->type_name);
    const std::vector<std::string> names = PropertyNames(rows.front(), {});
    std::string text = "\n";
    const auto add = [&](const std::vector<std::string>& lines) {
      for (const std::string& line : lines) text += line + "\n";
      text += "\n";
    };
    if (view != nullptr) {
      add(TableLines(rows, view->columns, width_));
    } else if (names.size() <= 4) {
      add(TableLines(rows, ColumnsFor(rows, names), width_));
    } else {
      for (const Value& row : rows) add(ListLines(row, names, width_));
    }
    out_(text);
  }

  const ViewTable& views_;
  size_t width_;
  bool terminal_;
  TextSink out_;
  std::vector<Value> rows_;
  std::string shape_;
  bool headed_ = false;  // rows_ goes on with a table that has begun
};

std::string Trimmed(std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

// Narrows the widest left-aligned columns until all fit; then drops columns from the right.
void Fit(std::vector<Column>* columns, std::vector<size_t>* widths, size_t width) {
  constexpr size_t kNarrowest = 6;
  const auto total = [&] {
    size_t sum = widths->size() - 1;
    for (const size_t w : *widths) sum += w;
    return sum;
  };
  while (total() > width) {
    size_t widest = widths->size();
    for (size_t i = 0; i < widths->size(); ++i) {
      if ((*columns)[i].align == Align::kLeft && (*widths)[i] > kNarrowest &&
          (widest == widths->size() || (*widths)[i] > (*widths)[widest])) {
        widest = i;
      }
    }
    if (widest < widths->size()) {
      const size_t over = total() - width;
      (*widths)[widest] -= std::min(std::max<size_t>(1, over / 4), (*widths)[widest] - kNarrowest);
    } else if (widths->size() > 1) {
      widths->pop_back();
      columns->pop_back();
    } else {
      (*widths)[0] = width;
    }
  }
}

}  // namespace

std::vector<std::string> PropertyNames(const Value& object,
                                       const std::vector<std::string>& patterns) {
  std::vector<std::string> names;
  if (object.IfObject() == nullptr) return names;
  const auto add = [&](const std::string& name) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  };
  for (const Property& p : object.IfObject()->properties) {
    if (patterns.empty() && !p.hidden) add(p.name);
  }
  for (const std::string& pattern : patterns) {
    if (!HasWildcard(pattern)) add(pattern);
    for (const Property& p : object.IfObject()->properties) {
      if (HasWildcard(pattern) && WildcardMatch(pattern, p.name)) add(p.name);
    }
  }
  return names;
}

std::vector<Column> ColumnsFor(const std::vector<Value>& rows,
                               const std::vector<std::string>& properties) {
  std::vector<Column> columns;
  for (const std::string& name : properties) {
    const auto number = [&](const Value& row) {
      const Value value = Member(row, name);
      return value.is_number() || value.If<TimeSpan>() != nullptr;
    };
    const bool right = !rows.empty() && std::all_of(rows.begin(), rows.end(), number);
    columns.push_back({name, name, right ? Align::kRight : Align::kLeft, Unit::kPlain, 0});
  }
  return columns;
}

std::vector<std::string> TableLines(const std::vector<Value>& rows, std::vector<Column> columns,
                                    size_t width) {
  if (columns.empty()) return {};
  std::vector<std::vector<std::string>> cells;
  std::vector<size_t> widths;
  for (const Column& column : columns)
    widths.push_back(std::max(column.width, DisplayWidth(Printable(column.title))));
  for (const Value& row : rows) {
    std::vector<std::string> line;
    for (size_t i = 0; i < columns.size(); ++i) {
      line.push_back(CellText(row, columns[i]));
      widths[i] = std::max(widths[i], DisplayWidth(line.back()));
    }
    cells.push_back(std::move(line));
  }
  if (width != 0) Fit(&columns, &widths, width);
  const auto put = [&](const auto& text) {
    std::string line;
    for (size_t i = 0; i < columns.size(); ++i) {
      if (i != 0) line += ' ';
      const std::string cell = Shorten(text(i), widths[i]);
      line +=
          columns[i].align == Align::kLeft ? PadRight(cell, widths[i]) : PadLeft(cell, widths[i]);
    }
    return Trimmed(std::move(line));
  };
  std::vector<std::string> lines;
  lines.push_back(put([&](size_t i) { return Printable(columns[i].title); }));
  lines.push_back(put([&](size_t i) {
    return std::string(std::min(widths[i], DisplayWidth(Printable(columns[i].title))), '-');
  }));
  for (const auto& line : cells) lines.push_back(put([&](size_t i) { return line[i]; }));
  return lines;
}

std::vector<std::string> ListLines(const Value& object, const std::vector<std::string>& properties,
                                   size_t width) {
  size_t widest = 0;
  for (const std::string& name : properties)
    widest = std::max(widest, DisplayWidth(Printable(name)));
  std::vector<std::string> lines;
  for (const std::string& name : properties) {
    std::string line =
        PadRight(Printable(name), widest) + " : " + Printable(ToDisplay(Member(object, name)));
    lines.push_back(Trimmed(width == 0 ? std::move(line) : Shorten(line, width)));
  }
  return lines;
}

std::string ToJson(const Value& value, bool indent) {
  // ASCII alone: what would steer a terminal is escaped there as everywhere.
  return JsonOf(value, 0).dump(indent ? 2 : -1, ' ', true, Json::error_handler_t::replace);
}

std::string CsvLine(const std::vector<std::string>& fields) {
  std::string line;
  for (const std::string& field : fields) {
    if (&field != fields.data()) line += ',';
    line += '"';
    for (const char c : field) line += c == '"' ? std::string("\"\"") : std::string(1, c);
    line += '"';
  }
  return line;
}

std::unique_ptr<Renderer> MakeTextRenderer(const ViewTable& views, size_t width, bool terminal,
                                           TextSink out) {
  return std::make_unique<TextRenderer>(views, width, terminal, std::move(out));
}
std::unique_ptr<Renderer> MakeJsonRenderer(TextSink out) {
  return std::make_unique<JsonRenderer>(std::move(out));
}
std::unique_ptr<Renderer> MakeJsonLinesRenderer(TextSink out) {
  return std::make_unique<JsonLinesRenderer>(std::move(out));
}
std::unique_ptr<Renderer> MakeCsvRenderer(TextSink out) {
  return std::make_unique<CsvRenderer>(std::move(out));
}

}  // namespace partita::shell
