# Builds the three programs into build/. `make demo` and `make test` need nothing but git, make and
# the right to install packages; `make help` lists the targets.
MAKEFLAGS += -r
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all
config ?= release

# ---- what this machine has: probed once, said aloud, never a silent half-build
PACKAGES := gcc pkg-config libhdf5-dev libcjson-dev libdnnl-dev libpcre2-dev libutf8proc-dev \
            libdeflate-dev gnuplot-nox fonts-dejavu-core python3-jieba
NVCC  ?= $(if $(filter off,$(cuda)),,$(firstword $(shell command -v nvcc) $(wildcard /usr/local/cuda/bin/nvcc)))
HDF5  := $(firstword $(foreach p,hdf5-serial hdf5,$(shell pkg-config --exists $p 2>/dev/null && echo $p)))
LIBS  := libcjson libpcre2-8 libutf8proc libdeflate
have   = $(shell pkg-config --exists $1 2>/dev/null && echo $1)
# cJSON and libdeflate of Debian 12 carry .pc files; oneDNN does not, so its header is the probe.
DNNL  := $(firstword $(wildcard /usr/include/oneapi/dnnl/dnnl.h /usr/local/include/oneapi/dnnl/dnnl.h))
GNUPLOT := $(shell command -v gnuplot)
# read when Chinese tasks are scored, and by nothing else: the build goes on without it
JIEBA := $(wildcard /usr/lib/python3/dist-packages/jieba/dict.txt)
READY := $(and $(HDF5),$(GNUPLOT),$(DNNL),$(call have,libcjson),$(call have,libpcre2-8),$(call have,libutf8proc),$(call have,libdeflate))

# ---- CUDA: cuda=off builds without it, cuda=all for every architecture named below, nothing for the
# GPU of this machine (without one: for the newest of them, which a newer driver can run too)
CUDA   := $(if $(NVCC),$(abspath $(dir $(NVCC))..))
GPU    := $(if $(NVCC),$(if $(cuda),,$(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .)))
# wgmma and its kin are instructions of exactly 9.0: the a in 90a
code    = $(if $(filter 90,$1),-gencode=arch=compute_90a$(,)code=sm_90a,-gencode=arch=compute_$1$(,)code=sm_$1)
, := ,
ARCHS  := $(if $(filter all,$(cuda)),80 90 100,$(or $(GPU),90))
CUFLAGS += -std=c++17 -O3 -g -lineinfo -I. $(foreach a,$(ARCHS),$(call code,$a)) \
           $(if $(filter all,$(cuda)),-gencode=arch=compute_80$(,)code=compute_80) -Xcompiler -Wall \
           $(if $(werror),-Werror all-warnings)
CFLAGS  += $(if $(CUDA),-I$(CUDA)/include)

# ---- where things go: one folder of objects per configuration; the programs of release in build/
O   := build/$(config)$(if $(NVCC),$(if $(cuda),-cuda-$(cuda)),-cpu)
BIN := $(if $(filter release,$(config)),$(if $(filter all,$(cuda)),$O,build),$O)

# no -ffast-math: a dump must mean the same from every build
opt.release  := -O3
opt.debug    := -O0 -g3
opt.sanitize := -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
COMMIT  := $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
CFLAGS  += -std=c11 -D_GNU_SOURCE -g -fopenmp -Wall -Wextra -Wshadow -Wpointer-arith \
           -Wstrict-prototypes -Wmissing-prototypes $(if $(werror),-Werror) -I. $(opt.$(config)) \
           $(if $(READY),$(shell pkg-config --cflags $(HDF5) $(LIBS)))
LDLIBS.base := $(if $(READY),$(shell pkg-config --libs libcjson)) -lm
LDLIBS.dump := $(if $(READY),$(shell pkg-config --libs $(HDF5) libdeflate)) $(LDLIBS.base)
LDLIBS.core := $(if $(READY),$(shell pkg-config --libs libpcre2-8 libutf8proc)) -ldnnl $(LDLIBS.dump) \
               $(if $(CUDA),-L$(CUDA)/lib64 -Wl$(,)-rpath$(,)$(CUDA)/lib64 -lcublas -lcudart_static -lstdc++ -lpthread -ldl -lrt)

# ---- the layers, enforced by the linker: okv-analyze gets libdump.a and nothing else of core,
# okv-plot gets libbase.a only
obj   = $(patsubst %,$O/obj/%.o,$1)
base := $(wildcard core/base/*.c)
dump := $(wildcard core/dump/*.c)
core := $(filter-out core/cmd/main.c core/ops/cpu_simd.c $(if $(NVCC),core/ops/cuda_none.c,$(filter-out core/ops/cuda_none.c,$(wildcard core/ops/cuda*.c))),\
        $(wildcard core/ops/*.c core/model/*.c core/method/*.c core/task/*.c core/cmd/*.c)) \
        $(if $(NVCC),$(wildcard core/ops/*.cu))
simd := avx512 avx2 plain
gpu_tests := $(patsubst tests/%.c,$O/%,$(wildcard tests/test_cuda*.c))
tests := $(filter-out $(gpu_tests),$(patsubst tests/%.c,$O/%,$(wildcard tests/test_*.c))) $(if $(NVCC),$(gpu_tests))

PROGRAMS := $(BIN)/okv $(BIN)/okv-analyze $(BIN)/okv-plot

ifeq ($(READY),)
$(if $(installed),$(error after the installation still missing: $(if $(HDF5),,HDF5) $(if $(DNNL),,oneDNN) $(if $(GNUPLOT),,gnuplot) \
    $(foreach l,$(LIBS),$(if $(call have,$l),,$l))))
all demo test: deps
	@$(MAKE) --no-print-directory installed=1 $@
else
all: say $(if $(JIEBA),,$O/jieba.tried) $(PROGRAMS)
endif

say:
	@echo "$O: HDF5 $(HDF5) $(shell pkg-config --modversion $(HDF5)), oneDNN, CUDA $(if $(NVCC),for sm_$(strip $(ARCHS))$(if $(GPU),, (no GPU found)),off)"

$O/libbase.a: $(call obj,$(base))
$O/libdump.a: $(call obj,$(dump))
$O/libcore.a: $(call obj,$(core)) $(patsubst %,$O/obj/core/ops/cpu_simd.%.o,$(simd))
$(BIN)/okv: $(call obj,core/cmd/main.c) $O/libcore.a $O/libdump.a $O/libbase.a
	$(CC) $(CFLAGS) $^ $(LDFLAGS) $(LDLIBS.core) -o $@
$(BIN)/okv-analyze: $(call obj,$(wildcard analyze/*.c)) $O/libdump.a $O/libbase.a
	$(CC) $(CFLAGS) $^ $(LDFLAGS) $(if $(READY),$(shell pkg-config --libs libutf8proc)) $(LDLIBS.dump) -o $@
$(BIN)/okv-plot: $(call obj,$(wildcard plots/*.c)) $O/libbase.a
	$(CC) $(CFLAGS) $^ $(LDFLAGS) $(LDLIBS.base) -o $@
# tests of analyze/ and plots/ link those modules without their main
$(tests): $O/%: $O/obj/tests/%.c.o $(call obj,$(filter-out tests/test_%.c tests/make_%.c $(if $(NVCC),,tests/gpu.c),$(wildcard tests/*.c)) tests/made_dump.c $(filter-out analyze/main.c plots/main.c,\
          $(wildcard analyze/*.c plots/*.c))) $O/libcore.a $O/libdump.a $O/libbase.a
	$(CC) $(CFLAGS) $^ $(LDFLAGS) $(LDLIBS.core) -o $@

$O/lib%.a:
	@rm -f $@
	$(AR) rcs $@ $^
# the commit is known to one object only, so that a commit does not rebuild the rest
$O/obj/core/base/base.c.o: CFLAGS += -DBUILD_COMMIT='"$(COMMIT)"'
$O/obj/core/base/base.c.o: $O/commit
$O/commit: FORCE
	@mkdir -p $(@D); echo '$(COMMIT)' | cmp -s - $@ || echo '$(COMMIT)' > $@
FORCE:
$O/obj/%.c.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c $< -o $@
$O/obj/%.cu.o: %.cu
	@mkdir -p $(@D)
	$(NVCC) $(CUFLAGS) -MMD -MP -c $< -o $@
# one source, three instruction sets: cpu.c picks one at run time
# (-std=c11 alone would forbid fused multiply-add)
flags.avx512 := -ffp-contract=fast -mavx512f -mavx512bw -mavx512dq -mavx512vl -mfma -mf16c -mprefer-vector-width=512
flags.avx2   := -ffp-contract=fast -mavx2 -mfma -mf16c
$O/obj/core/ops/cpu_simd.%.o: core/ops/cpu_simd.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(flags.$*) -DSIMD=$* -DSIMD_$* -MMD -MP -c $< -o $@
-include $(shell find $O/obj -name '*.d' 2>/dev/null)


# ---- what `make demo` and `make test` need, installed where that is allowed
deps:
	@missing=; for p in $(PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	line="apt-get update && apt-get install -y --no-install-recommends$$missing"; \
	if ! command -v apt-get >/dev/null; then echo "install by hand:$$missing"; exit 1; \
	elif [ "$$(id -u)" = 0 ]; then sudo=; \
	elif sudo -n true 2>/dev/null; then sudo=sudo; \
	else echo "missing:$$missing; run this as root, then again what you ran:"; echo "  $$line"; exit 1; fi; \
	echo "installing:$$missing"; export DEBIAN_FRONTEND=noninteractive; \
	$$sudo apt-get update -q >/dev/null && $$sudo apt-get install -y -q --no-install-recommends $$missing >/dev/null

# once in a folder of objects: a machine without the rights or the network is not kept waiting again
$O/jieba.tried:
	@mkdir -p $(@D) && touch $@
	@$(MAKE) --no-print-directory PACKAGES=python3-jieba deps || echo "going on without python3-jieba: Chinese tasks cannot be scored"

ifneq ($(READY),)
# The demonstration: generate, trace, rank, search, evaluate, draw; about two minutes on two cores.
demo: all
	@OKV=$(BIN) sh configs/demo/demo.sh build/demo

# Every test program, then the command line; the last line counts them all.
test: all $(tests)
	@BIN=$(BIN) TESTS="$(tests)" sh tests/run.sh
endif

# The dump of the long-context measurements in docs/performance.md.
$O/make_long_dump: $(call obj,tests/make_long_dump.c) $O/libdump.a $O/libbase.a
	$(CC) $(CFLAGS) $^ $(LDFLAGS) $(LDLIBS.dump) -o $@

sources := $(wildcard core/*/*.[ch] core/*/*.cu core/*/*.cuh analyze/*.[ch] plots/*.[ch] tests/*.[ch])
format:
	clang-format -i $(sources)
format-check:
	clang-format --dry-run -Werror $(sources)

# The arrows of the design that the linker cannot see: a layer includes only what lies below it.
layers:
	@bad=0; \
	check() { if grep -HnE "#include \"($$2)" $$1 | grep -v '^$$'; then echo "layer broken: $$1 must not include $$2"; bad=1; fi; }; \
	check "core/base/*.[ch]" "core/(dump|ops|model|method|task|cmd)/|analyze/|plots/|tests/"; \
	check "core/dump/*.[ch]" "core/(ops|model|method|task|cmd)/|analyze/|plots/|tests/"; \
	check "core/ops/*.[ch]" "core/(dump|method|task|cmd)/|analyze/|plots/|tests/"; \
	check "core/model/*.[ch]" "core/(dump|method|task|cmd)/|analyze/|plots/|tests/"; \
	check "core/method/*.[ch]" "core/(dump|task|cmd)/|analyze/|plots/|tests/"; \
	check "core/task/*.[ch]" "core/(dump|cmd)/|analyze/|plots/|tests/"; \
	check "core/cmd/*.[ch]" "analyze/|plots/|tests/"; \
	check "analyze/*.[ch]" "core/(ops|model|method|task|cmd)/|plots/|tests/"; \
	check "plots/*.[ch]" "core/(dump|ops|model|method|task|cmd)/|analyze/|tests/"; \
	if grep -ln '<hdf5' core/*/*.[ch] analyze/*.[ch] plots/*.[ch] | grep -v '^core/dump/'; then echo "hdf5.h outside core/dump"; bad=1; fi; \
	exit $$bad

help:
	@echo "make               build/okv, build/okv-analyze, build/okv-plot"; \
	echo "make demo          trace a real model, rank its filter layers, prove the choice, draw it"; \
	echo "make test          every test; config=sanitize runs them under ASan and UBSan"; \
	echo "make deps          install the packages that are missing"; \
	echo "make cuda=all       code for sm_80, sm_90, sm_100 and PTX; cuda=off builds without CUDA"; \
	echo "make format        clang-format; make layers checks the dependency arrows"; \
	echo "config=debug|sanitize builds into build/<config>; werror=1 makes warnings errors"

.PHONY: all say demo test deps format format-check layers clean help FORCE
clean:
	rm -rf build
