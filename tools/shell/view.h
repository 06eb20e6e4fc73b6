// Which columns an object shows when nobody says otherwise, by its type. Plain data; any thread.
#ifndef PARTITA_TOOLS_SHELL_VIEW_H_
#define PARTITA_TOOLS_SHELL_VIEW_H_

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tools/shell/value.h"

namespace partita::shell {

enum class Align { kLeft, kRight };
enum class Unit { kPlain, kMebibytes };

struct Column {
  std::string title;
  std::string property;
  Align align = Align::kLeft;
  Unit unit = Unit::kPlain;
  size_t width = 0;  // at least; for tables that grow row by row
};
struct View {
  std::string type_name;
  std::vector<Column> columns;
};

class ViewTable {
 public:
  void Add(View view) { views_.push_back(std::move(view)); }
  // Null for a type without a view.
  const View* Find(std::string_view type_name) const;

 private:
  std::vector<View> views_;
};

// Those of a Hyper-V host's objects and of the language's own.
ViewTable DefaultViews();
// The text of a cell, fit for one line of a terminal.
std::string CellText(const Value& object, const Column& column);

}  // namespace partita::shell

#endif  // PARTITA_TOOLS_SHELL_VIEW_H_
