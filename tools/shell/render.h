// Objects to text. Text for people: a type's view, else a table for up to four properties and a
// list for more; widths fit a terminal, off it nothing is cut. For programs: JSON, JSON lines and
// CSV, whose form is stable. Objects may carry a guest's text; nothing of it steers a terminal. One
// thread.
#ifndef PARTITA_TOOLS_SHELL_RENDER_H_
#define PARTITA_TOOLS_SHELL_RENDER_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tools/shell/value.h"
#include "tools/shell/view.h"

namespace partita::shell {

using TextSink = std::function<void(std::string_view)>;

class Renderer {
 public:
  virtual ~Renderer() = default;
  virtual void Add(const Value& value) = 0;
  virtual void Finish() = 0;
  // Shows what has come so far: the next object may take long.
  virtual void ShowNow() {}
};
// `width` 0 is any. `terminal`: control characters in text alone are made visible too.
std::unique_ptr<Renderer> MakeTextRenderer(const ViewTable& views, size_t width, bool terminal,
                                           TextSink out);
// One array, an element a line.
std::unique_ptr<Renderer> MakeJsonRenderer(TextSink out);
std::unique_ptr<Renderer> MakeJsonLinesRenderer(TextSink out);
// The first object names the columns; every field is quoted.
std::unique_ptr<Renderer> MakeCsvRenderer(TextSink out);

// Lines without newlines. Titles, dashes, a row for each object.
std::vector<std::string> TableLines(const std::vector<Value>& rows, std::vector<Column> columns,
                                    size_t width);
std::vector<std::string> ListLines(const Value& object, const std::vector<std::string>& properties,
                                   size_t width);
// Names of an object's properties that are not hidden, or that a wildcard of `patterns` matches.
std::vector<std::string> PropertyNames(const Value& object,
                                       const std::vector<std::string>& patterns);
std::vector<Column> ColumnsFor(const std::vector<Value>& rows,
                               const std::vector<std::string>& properties);

std::string ToJson(const Value& value, bool indent);
std::string CsvLine(const std::vector<std::string>& fields);

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_RENDER_H_
