// A test is TEST(family, name) { CHECK(...); }. Failed checks are counted and told; main.cpp runs
// the families named on its command line.
#pragma once

#include <cstdio>
#include <string>
#include <vector>

namespace check {

struct Test {
  std::string family, name;
  void (*run)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

inline int& failures() {
  static int n = 0;
  return n;
}

struct Register {
  Register(const char* family, const char* name, void (*run)()) {
    tests().push_back({family, name, run});
  }
};

inline void fail(const char* file, int line, const char* what) {
  ++failures();
  std::printf("%s:%d: failed: %s\n", file, line, what);
}

}  // namespace check

#define TEST(family, name)                                                                         \
  static void test_##family##_##name();                                                            \
  static const check::Register register_##family##_##name(#family, #name, test_##family##_##name); \
  static void test_##family##_##name()

#define CHECK(condition) ((condition) ? (void)0 : check::fail(__FILE__, __LINE__, #condition))

#define CHECK_THROWS(expression, type)                                          \
  do {                                                                          \
    bool thrown = false;                                                        \
    try {                                                                       \
      expression;                                                               \
    } catch (const type&) {                                                     \
      thrown = true;                                                            \
    }                                                                           \
    if (!thrown) check::fail(__FILE__, __LINE__, #expression " throws " #type); \
  } while (false)
