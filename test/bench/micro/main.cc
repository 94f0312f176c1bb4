// micro --data DIR [--row NAME]...     one line of JSON per row: {"row": NAME, "ns": FIGURE}
// micro --plan FILE                    times the shell commands of a plan, see RunPlan
// micro --list
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include "test/bench/micro/micro.h"

extern char** environ;

namespace amber::bench {

int64_t Now() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

void Fail(const char* what) {
  perror(what);
  _exit(1);
}

namespace {

constexpr int64_t kBatchNs = 20'000'000;
constexpr int kBatches = 5;
constexpr unsigned kRowSeconds = 30;

std::vector<Row> AllRows() {
  std::vector<Row> rows;
  for (auto part : {CallRows(), MessageRows(), NetworkRows(), FileRows(), MemoryRows(), ProcessRows(), ScaleRows()}) {
    rows.insert(rows.end(), part.begin(), part.end());
  }
  return rows;
}

// The median of several batches, each long enough that the clock and the loop do not count.
double Measure(const Row& row, const Context& context) {
  int64_t count = 1;
  int64_t spent = row.run(context, count);
  while (spent < kBatchNs / 2 && count < 100'000'000) {
    int64_t factor = spent > 0 ? kBatchNs / spent : 100;
    count *= std::clamp<int64_t>(factor, 2, 100);
    spent = row.run(context, count);
  }
  std::vector<double> batches;
  for (int i = 0; i < kBatches; ++i) {
    batches.push_back(static_cast<double>(row.run(context, count)) / static_cast<double>(count));
  }
  std::sort(batches.begin(), batches.end());
  return batches[batches.size() / 2];
}

// Runs `sh -c COMMAND`; returns its wall time, or -1 if it failed.
int64_t TimeCommand(const std::string& command) {
  const char* arguments[] = {"sh", "-c", command.c_str(), nullptr};
  pid_t child;
  int64_t start = Now();
  Require(posix_spawn(&child, "/bin/sh", nullptr, nullptr, const_cast<char**>(arguments), environ) == 0, "posix_spawn");
  int status;
  Require(waitpid(child, &status, 0) == child, "waitpid");
  int64_t spent = Now() - start;
  return status == 0 ? spent : -1;
}

void PrintError(const std::string& row, const char* what, int number) {
  printf("{\"row\": \"%s\", \"error\": \"%s %d\"}\n", row.c_str(), what, number);
  fflush(stdout);
}

// Each line of the plan: NAME, tab, preparation (not timed), tab, command.
int RunPlan(const char* path) {
  std::ifstream plan(path);
  Require(plan.good(), path);
  std::string name, before, command;
  while (std::getline(plan, name, '\t') && std::getline(plan, before, '\t') && std::getline(plan, command)) {
    if (!before.empty() && TimeCommand(before) < 0) {
      PrintError(name, "preparation failed", 1);
      continue;
    }
    int64_t spent = TimeCommand(command);
    if (spent < 0) {
      PrintError(name, "the command failed", 1);
      continue;
    }
    printf("{\"row\": \"%s\", \"ns\": %lld}\n", name.c_str(), static_cast<long long>(spent));
    fflush(stdout);
  }
  return 0;
}

// In a child of its own, so that a row that fails or hangs costs only itself.
void RunRow(const Row& row, const Context& context) {
  pid_t child = fork();
  Require(child >= 0, "fork");
  if (child == 0) {
    alarm(kRowSeconds);
    printf("{\"row\": \"%s\", \"ns\": %.1f}\n", row.name, Measure(row, context));
    fflush(stdout);
    _exit(0);
  }
  int status;
  Require(waitpid(child, &status, 0) == child, "waitpid");
  if (status != 0) PrintError(row.name, "wait status", status);
}

}  // namespace
}  // namespace amber::bench

int main(int argc, char** argv) {
  using amber::bench::Context;
  using amber::bench::Row;
  Context context;
  std::string self = argv[0];
  context.self_folder = self.substr(0, self.rfind('/') + 1);
  context.data = ".";
  std::vector<std::string> wanted;
  for (int i = 1; i < argc; ++i) {
    std::string argument = argv[i];
    if (argument == "--list") {
      for (const Row& row : amber::bench::AllRows()) puts(row.name);
      return 0;
    }
    if (i + 1 == argc) {
      fprintf(stderr, "micro: %s needs a value\n", argv[i]);
      return 2;
    }
    if (argument == "--plan") return amber::bench::RunPlan(argv[i + 1]);
    if (argument == "--data") {
      context.data = argv[++i];
    } else if (argument == "--row") {
      wanted.push_back(argv[++i]);
    } else {
      fprintf(stderr, "micro: unknown argument %s\n", argv[i]);
      return 2;
    }
  }
  for (const Row& row : amber::bench::AllRows()) {
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), row.name) == wanted.end()) {
      continue;
    }
    amber::bench::RunRow(row, context);
  }
  return 0;
}
