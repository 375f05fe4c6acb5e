#include <nanobind/nanobind.h>
void bind_layers(nanobind::module_&) {}
