# checkpoint: yes
# timeout: 180
# g++: a program with containers, threads, exceptions, iostreams and the file system library.
cat > p.cc <<'END'
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>
#include <map>
#include <regex>
#include <stdexcept>
#include <thread>
#include <vector>
int main() {
  std::vector<std::future<long>> parts;
  for (int i = 0; i < 4; i++) parts.push_back(std::async(std::launch::async, [i] { long s = 0; for (long k = i; k < 4000000; k += 4) s += k; return s; }));
  long total = 0; for (auto &p : parts) total += p.get();
  std::cout << total << "\n";
  std::map<std::string, int> words; std::string text = "a b a c b a", w; std::stringstream in(text); while (in >> w) words[w]++;
  for (auto &[k, v] : words) std::cout << k << v << " ";
  try { throw std::runtime_error("thrown"); } catch (const std::exception &e) { std::cout << e.what() << "\n"; }
  std::filesystem::create_directories("x/y"); std::ofstream("x/y/f") << "file"; std::cout << std::filesystem::file_size("x/y/f") << "\n";
  std::cout << std::regex_replace("foo-123", std::regex("[0-9]+"), "N") << "\n";
  std::thread([] { thread_local int n = 5; std::cout << n << std::endl; }).join();
}
END
g++ -std=c++20 -O2 -pthread p.cc -o p && ./p; echo "status $?"
