# Build rules shared by every folder: one library per folder, tests and fuzz targets beside sources.

add_library(partita_options INTERFACE)
target_include_directories(partita_options INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_options(partita_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Wcast-align
  -Woverloaded-virtual -Wconversion -Wno-sign-conversion -Wformat=2 -Wimplicit-fallthrough
  -Wundef -Werror -fno-strict-aliasing)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  target_compile_options(partita_options INTERFACE -Wthread-safety)
endif()
if(PARTITA_SANITIZE)
  target_compile_options(partita_options INTERFACE
    -fsanitize=${PARTITA_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(partita_options INTERFACE -fsanitize=${PARTITA_SANITIZE})
endif()
if(PARTITA_FUZZ)
  target_compile_options(partita_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

# The headers that nearly every source includes, compiled once (in the first library, base).
function(partita_precompiled name)
  if(name STREQUAL partita_base)
    target_precompile_headers(${name} PRIVATE <algorithm> <array> <atomic> <cstdint> <cstring> <deque> <functional>
      <map> <memory> <optional> <span> <string> <string_view> <utility> <vector> <absl/status/status.h>
      <absl/status/statusor.h>)
  else()
    target_precompile_headers(${name} REUSE_FROM partita_base)
  endif()
endfunction()

# partita_library(NAME SOURCES ... DEPS ...)
function(partita_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC partita_options ${ARG_DEPS})
  partita_precompiled(${name})
endfunction()

# Everything labelled "unit", to build it without the rest.
add_custom_target(unit_tests)

# What ctest runs in front of a test that starts partitions: it is skipped where there is no /dev/kvm.
set(PARTITA_WITH_KVM ${CMAKE_SOURCE_DIR}/tests/kvm/with-kvm)

# partita_test(NAME LABEL label [NEEDS_KVM] SOURCES ... DEPS ...): a GoogleTest program run by ctest as one test.
function(partita_test name)
  cmake_parse_arguments(ARG "NEEDS_KVM" "LABEL;TIMEOUT" "SOURCES;DEPS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 60)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE partita_options ${ARG_DEPS} GTest::gmock GTest::gtest
    GTest::gtest_main)
  target_precompile_headers(${name} REUSE_FROM partita_gtest_headers)
  if(ARG_NEEDS_KVM)
    add_test(NAME ${name} COMMAND ${PARTITA_WITH_KVM} $<TARGET_FILE:${name}>)
  else()
    add_test(NAME ${name} COMMAND ${name})
  endif()
  set_tests_properties(${name} PROPERTIES LABELS ${ARG_LABEL} TIMEOUT ${ARG_TIMEOUT} SKIP_RETURN_CODE 77)
  if(ARG_LABEL STREQUAL unit)
    add_dependencies(unit_tests ${name})
  endif()
endfunction()

# Everything labelled "fuzz"; empty outside the fuzz preset.
add_custom_target(fuzz_targets)

# partita_fuzz(NAME SOURCES ... DEPS ... CORPUS dir): libFuzzer target; each seed is also a unit test input.
function(partita_fuzz name)
  cmake_parse_arguments(ARG "" "CORPUS" "SOURCES;DEPS" ${ARGN})
  if(PARTITA_FUZZ)
    add_executable(${name} ${ARG_SOURCES})
    target_link_libraries(${name} PRIVATE ${ARG_DEPS})
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
    # New inputs go to the build folder; the seeds are read only.
    file(MAKE_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/${name}.found)
    add_test(NAME ${name} COMMAND ${name} -max_total_time=15 -rss_limit_mb=2048 -timeout=10
      -print_final_stats=1 ${CMAKE_CURRENT_BINARY_DIR}/${name}.found
      ${CMAKE_CURRENT_SOURCE_DIR}/${ARG_CORPUS})
    set_tests_properties(${name} PROPERTIES LABELS fuzz TIMEOUT 120)
    add_dependencies(fuzz_targets ${name})
  endif()
endfunction()

# partita_benchmark(NAME SOURCES ... DEPS ...): a Google Benchmark program; nothing runs it by itself.
function(partita_benchmark name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE partita_options ${ARG_DEPS} benchmark::benchmark)
endfunction()
