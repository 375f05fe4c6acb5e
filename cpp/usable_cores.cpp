// How many threads are worth having: one for each physical core that this process may use.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <thread>

#include "pronk/thread_pool.hpp"

#ifdef __linux__
#include <sched.h>
#endif
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

namespace pronk {

namespace {

#ifdef __linux__
std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// Cores among the CPUs of the affinity mask: CPUs of one core name the same siblings.
int cores_by_affinity() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return static_cast<int>(std::thread::hardware_concurrency());
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
    const std::string siblings = first_line(folder + "thread_siblings_list");
    cores.insert(siblings.empty() ? std::to_string(cpu) : siblings);
  }
  return static_cast<int>(cores.size());
}

// CPUs that the quota at one cgroup folder allows; 0: no limit.
double quota_at(const std::string& folder) {
  std::istringstream v2(first_line(folder + "/cpu.max"));  // "200000 100000" or "max 100000"
  double quota = 0, period = 0;
  if (v2 >> quota >> period && period > 0) return quota / period;
  std::istringstream v1(first_line(folder + "/cpu.cfs_quota_us") + " " + first_line(folder + "/cpu.cfs_period_us"));
  if (v1 >> quota >> period && quota > 0 && period > 0) return quota / period;
  return 0;
}

// The tightest quota on the way from this process's cgroup to the root: limits of parents hold too.
double cgroup_quota() {
  double tightest = 0;
  const auto visit = [&](const std::string& root, std::string path) {
    for (;;) {
      const double quota = quota_at(root + path);
      if (quota > 0) tightest = tightest > 0 ? std::min(tightest, quota) : quota;
      const std::size_t slash = path.rfind('/');
      if (path.empty() || slash == std::string::npos) return;
      path.resize(slash);
    }
  };
  std::ifstream groups("/proc/self/cgroup");  // lines "hierarchy:controllers:path"; v2 has the line "0::path"
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (controllers.empty()) visit("/sys/fs/cgroup", path);
    if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      visit("/sys/fs/cgroup/" + controllers, path);
      visit("/sys/fs/cgroup/cpu", path);
    }
  }
  return tightest;
}

int count() {
  const int cores = cores_by_affinity();
  const double quota = cgroup_quota();
  return quota > 0 ? std::min(cores, static_cast<int>(quota)) : cores;
}
#elif defined(__APPLE__)
int count() {
  int cores = 0;
  std::size_t size = sizeof(cores);
  // Performance cores where the chip has two kinds: the slow ones would hold the fast ones up.
  if (sysctlbyname("hw.perflevel0.physicalcpu", &cores, &size, nullptr, 0) == 0 && cores > 0) return cores;
  size = sizeof(cores);
  if (sysctlbyname("hw.physicalcpu", &cores, &size, nullptr, 0) == 0) return cores;
  return static_cast<int>(std::thread::hardware_concurrency());
}
#else
int count() {
  return static_cast<int>(std::thread::hardware_concurrency());
}
#endif

}  // namespace

int usable_cores() {
  return std::max(1, count());
}

}  // namespace pronk
