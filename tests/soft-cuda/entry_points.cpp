// Finds `extern "C" __global__` functions in what is left of a source once its macros are gone.
#include <ctype.h>

#include "compile.h"

namespace {
class Reader {
 public:
  explicit Reader(const std::string& text) : text(text) {}

  // The next word, number, literal or character; empty at the end.
  std::string next() {
    while (at < text.size()) {
      const char c = text[at];
      if (isspace((unsigned char)c)) {
        at++;
      } else if (c == '#' && (at == 0 || text[at - 1] == '\n')) {
        while (at < text.size() && text[at] != '\n') at++;  // a line marker, a pragma
      } else {
        break;
      }
    }
    if (at >= text.size()) return "";
    const size_t start = at;
    const char c = text[at++];
    if (isalnum((unsigned char)c) || c == '_') {
      while (at < text.size() && (isalnum((unsigned char)text[at]) || text[at] == '_')) at++;
    } else if (c == '"' || c == '\'') {
      while (at < text.size() && text[at] != c) at += text[at] == '\\' ? 2 : 1;
      if (at < text.size()) at++;
    }
    return text.substr(start, at - start);
  }

  // What is between the next parentheses.
  std::string parenthesised() {
    if (next() != "(") return "";
    // As it stands: a space inside an operator would make another one of it.
    const size_t start = at;
    int depth = 1;
    while (true) {
      const std::string word = next();
      if (word.empty()) return text.substr(start);
      if (word == "(") depth++;
      if (word == ")" && --depth == 0) return text.substr(start, at - 1 - start);
    }
  }

 private:
  const std::string& text;
  size_t at = 0;
};
}  // namespace

std::vector<EntryPoint> entry_points(const std::string& preprocessed) {
  std::vector<EntryPoint> found;
  Reader reader(preprocessed);
  std::vector<bool> blocks;  // of each open brace: whether it is `extern "C" {`
  bool c_linkage = false;    // of the declaration that is being read
  std::string before;
  for (std::string word = reader.next(); !word.empty(); before = word, word = reader.next()) {
    if (word == "\"C\"" && before == "extern") {
      c_linkage = true;
    } else if (word == "{") {
      blocks.push_back(c_linkage && before == "\"C\"");
      c_linkage = false;
    } else if (word == "}") {
      if (!blocks.empty()) blocks.pop_back();
      c_linkage = false;
    } else if (word == ";") {
      c_linkage = false;
    } else if (word == "__global__") {
      bool entry = c_linkage;
      for (const bool block : blocks) entry = entry || block;
      EntryPoint point;
      // void, attributes and the name, up to the parameters.
      std::string name;
      for (word = reader.next(); !word.empty() && word != "("; word = reader.next()) {
        if (word == "__launch_bounds__")
          point.bounds = reader.parenthesised();
        else if (word == "__attribute__")
          reader.parenthesised();
        else
          name = word;
      }
      // Those that are declared first and defined later are listed once.
      bool known = false;
      for (const EntryPoint& one : found) known = known || one.name == name;
      point.name = name;
      if (entry && !known) found.push_back(point);
    }
  }
  return found;
}
