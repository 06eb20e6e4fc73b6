#include "tools/control/definition_json.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace partita {
namespace {

absl::StatusOr<control::PartitionDefinition> Read(const std::string& text) {
  auto json = ParseJson(text);
  if (!json.ok()) return json.status();
  return DefinitionFromJson(*json);
}

std::string ErrorOf(const std::string& text) {
  const auto read = Read(text);
  return read.ok() ? "no error" : std::string(Message(read.status()));
}

TEST(DefinitionJson, LeastIsANameAndDefaults) {
  const auto d = Read(R"({"name":"web"})");
  ASSERT_TRUE(d.ok()) << d.status();
  EXPECT_EQ(d->memory().startup_bytes(), 512u << 20);
  EXPECT_EQ(d->processors().count(), 1u);
  EXPECT_EQ(d->synic(), control::PartitionDefinition::AUTO);
}

// Every key there is: what is written is what was read.
TEST(DefinitionJson, EverythingComesBack) {
  const std::string text = R"({"schema":1,"name":"web \"1\"","notes":"n","memory":
    {"startup_bytes":536870912,"minimum_bytes":33554432,"maximum_bytes":1073741824,"pages":"2m"},
    "processors":{"count":2,"affinity":[1,0]},"boot":{"kernel":"/k","initrd":"/i",
    "command_line":"c","unpack_kernel":true},"disks":[{"path":"/d","read_only":true,"cache":"none",
    "logical_block_bytes":4096,"format":"raw"},{"path":"/e"}],"adapters":[{"name":"a","switch":"s",
    "mac":"00-15-5D-01-02-03","vlan":7,"queues":2,"spoofing":true,"dhcp_guard":true,
    "router_guard":true},{"user":true,"map_gateway":true},{"bridge":"b"},{"tap":"t"},{"none":true}],
    "console":{},"actions":{"automatic_start":"Start","start_delay_ms":5,
    "automatic_stop":"ShutDown","restart_on_crash":true},"synic":"user","asset_tag":"x",
    "machine_version":1,"tuning":{"storage_queues":1,"vmbus_version":"5.3","synthetic_timers":true,
    "on_reset":"exit"}})";
  const auto d = Read(text);
  ASSERT_TRUE(d.ok()) << d.status();
  const Json out = ToJson(*d);
  const auto again = DefinitionFromJson(out);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(d->SerializeAsString(), again->SerializeAsString());
  EXPECT_EQ(out["adapters"][0]["mac"], "00:15:5d:01:02:03");
  EXPECT_EQ(out["adapters"][4]["none"], true);
  EXPECT_EQ(out["tuning"]["vmbus_version"], "5.3");
  EXPECT_EQ(out["disks"][1]["logical_block_bytes"], 512);
}

// One error, and it names the key.
TEST(DefinitionJson, WhatIsWrongIsNamed) {
  const struct {
    const char* text;
    const char* error;
  } cases[] = {
      {"[]", "the text must be a JSON object"},
      {"{}", "'name' must have 1 to 100"},
      {R"({"name":"a/b"})", "'name' must have"},
      {R"({"name":" a"})", "'name' must have"},
      {R"({"name":"12345678-1234-1234-1234-123456789abc"})", "be no GUID"},
      {R"({"name":"a","memroy":{}})", "there is no setting 'memroy'; did you mean 'memory'?"},
      {R"({"name":"a","memory":{"startup":1}})", "there is no setting 'memory.startup'"},
      {R"({"name":"a","memory":{"startup_bytes":1}})", "'memory.startup_bytes' must be a whole"},
      {R"({"name":"a","memory":{"startup_bytes":"1G"}})", "'memory.startup_bytes' must be a whole"},
      {R"({"name":"a","memory":{"startup_bytes":1e9}})", "'memory.startup_bytes' must be a whole"},
      {R"({"name":"a","memory":{"startup_bytes":33554433}})", "multiple of 1 MiB"},
      {R"({"name":"a","memory":{"maximum_bytes":33554432}})", "'memory.maximum_bytes' must not be"},
      {R"({"name":"a","memory":{"pages":"1g"}})", "'memory.pages' must be one of auto, 4k, 2m"},
      {R"({"name":"a","processors":{"count":65}})", "'processors.count' must be a whole number"},
      {R"({"name":"a","processors":{"count":-1}})", "'processors.count' must be a whole number"},
      {R"({"name":"a","processors":{"affinity":[-1]}})", "'processors.affinity[0]' must be"},
      {R"({"name":"a","disks":{}})", "'disks' must be a list"},
      {R"({"name":"a","disks":[{}]})", "'disks[0].path' is missing"},
      {R"({"name":"a","disks":[{"path":"/a"},{"path":"/a"}]})", "'disks' name one path twice"},
      {R"({"name":"a","disks":[{"path":"/a","record":"/b"}]})", "no setting 'disks[0].record'"},
      {R"({"name":"a","disks":[{"path":"/a","logical_block_bytes":1024}]})", "512 or 4096"},
      {R"({"name":"a","adapters":[{"bridge":"x","tap":"y"}]})", "exclude one another"},
      {R"({"name":"a","adapters":[{"bridge":"sixteen-letters."}]})", "at most 15 bytes"},
      {R"({"name":"a","adapters":[{"mac":"01:00:00:00:00:00"}]})", "no group address"},
      {R"({"name":"a","adapters":[{"mac":"00:15:5d:00:00:01"},{"mac":"00:15:5D:00:00:01"}]})",
       "'adapters' have one address twice"},
      {R"({"name":"a","adapters":[{"bridge":"b","map_gateway":true}]})", "map_gateway' belongs"},
      {R"({"name":"a","asset_tag":"ä"})", "'asset_tag' must be printable"},
      {R"({"name":"a","notes":"\u0000"})", "'notes' must have no NUL"},
      {R"({"name":"a","schema":2})", "'schema' must be a whole number from 1 to 1"},
      {R"({"name":"a","name":"b"})", "the key 'name' is there twice"},
      {R"({"name":"a"} x)", "line 1 is not valid JSON"},
      {"{\n\"name\":\n\xff}", "line 3 is not valid JSON"},
      {"", "not valid JSON"},
  };
  for (const auto& c : cases) {
    EXPECT_NE(ErrorOf(c.text).find(c.error), std::string::npos)
        << c.text << ": " << ErrorOf(c.text);
  }
}

// What follows the parser recurses; a stranger must not choose how deep.
TEST(DefinitionJson, DepthIsBounded) {
  EXPECT_NE(ErrorOf(std::string(1'000'000, '[')).find("nested deeper"), std::string::npos);
  std::string object;
  for (int i = 0; i < 1000; ++i) object += R"({"a":)";
  EXPECT_NE(ErrorOf(object).find("nested deeper"), std::string::npos);
  EXPECT_TRUE(ParseJson(R"({"a":"[[[[[[[[[[[[[[[[[[[[[[[[[[\"{{{{{{{{{{{{{{{{{{{{{{{{"})").ok());
}

}  // namespace
}  // namespace partita
