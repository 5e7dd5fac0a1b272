package litemamba_test

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"litemamba"
)

// Every enumerator of the header under its name in Go. Add here what the header adds.
var enumerators = map[string]int{
	"LM_OK":                   int(litemamba.OK),
	"LM_ERR_NULL_POINTER":     int(litemamba.ErrNullPointer),
	"LM_ERR_INVALID_CONFIG":   int(litemamba.ErrInvalidConfig),
	"LM_ERR_INVALID_ARGUMENT": int(litemamba.ErrInvalidArgument),
	"LM_ERR_SHAPE_MISMATCH":   int(litemamba.ErrShapeMismatch),
	"LM_ERR_UNSUPPORTED":      int(litemamba.ErrUnsupported),
	"LM_ERR_NOT_FOUND":        int(litemamba.ErrNotFound),
	"LM_ERR_IO":               int(litemamba.ErrIO),
	"LM_ERR_FORMAT":           int(litemamba.ErrFormat),
	"LM_ERR_OUT_OF_MEMORY":    int(litemamba.ErrOutOfMemory),
	"LM_ERR_BUFFER_TOO_SMALL": int(litemamba.ErrBufferTooSmall),
	"LM_ERR_CUDA":             int(litemamba.ErrCUDA),
	"LM_ERR_INTERNAL":         int(litemamba.ErrInternal),
	"LM_VARIANT_PTCN":         int(litemamba.PTCN),
	"LM_VARIANT_STCN":         int(litemamba.STCN),
	"LM_VARIANT_DPWC":         int(litemamba.DPWC),
	"LM_VARIANT_BASELINE":     int(litemamba.Baseline),
	"LM_DTYPE_DEFAULT":        int(litemamba.DTypeDefault),
	"LM_DTYPE_F32":            int(litemamba.F32),
	"LM_DTYPE_F64":            int(litemamba.F64),
	"LM_DTYPE_BF16":           int(litemamba.BF16),
	"LM_DTYPE_F16":            int(litemamba.F16),
	"LM_DEVICE_CPU":           int(litemamba.CPU),
	"LM_DEVICE_CUDA":          int(litemamba.CUDA),
	"LM_MATH_DEFAULT":         int(litemamba.MathDefault),
	"LM_MATH_TF32":            int(litemamba.MathTF32),
	"LM_DT_INIT_RANDOM":       int(litemamba.DtInitRandom),
	"LM_DT_INIT_CONSTANT":     int(litemamba.DtInitConstant),
}

// Functions of the header that Go need not call, each with its reason. The README repeats them.
var notCalled = map[string]string{}

func TestHeader(t *testing.T) {
	for _, problem := range drift(header(t), sources(t)) {
		t.Error(problem)
	}
}

// A header of another version must be noticed, whichever way it differs.
func TestHeaderDriftIsSeen(t *testing.T) {
	header, sources := header(t), sources(t)
	for _, change := range []struct{ from, to, problem string }{
		{"LM_ERR_IO = 7", "LM_ERR_IO = 70", "LM_ERR_IO is 70 in the header and 7 in Go"},
		{"LM_ERR_IO = 7", "LM_ERR_FILE = 7", "LM_ERR_FILE is missing in Go"},
		{"LM_ERR_IO = 7", "LM_ERR_FILE = 7", "LM_ERR_IO is missing in the header"},
		{"LM_DTYPE_F16 = 4,", "LM_DTYPE_F16 = 4,\n  LM_DTYPE_F8 = 5,", "LM_DTYPE_F8 is missing in Go"},
		{"lm_status lm_save(", "lm_status lm_publish(", "lm_publish is never called"},
		{"  double dt_min;", "  double dt_min;\n  double dt_mean;", "lm_config.dt_mean is never read or never set"},
		{"  size_t ndim;", "  size_t rank;", "lm_tensor_info.rank is never read"},
	} {
		if !strings.Contains(header, change.from) {
			t.Fatalf("the header has no %q", change.from)
		}
		problems := drift(strings.Replace(header, change.from, change.to, 1), sources)
		if !slices.Contains(problems, change.problem) {
			t.Errorf("%q for %q: the problems found are %q; %q must be among them",
				change.to, change.from, problems, change.problem)
		}
	}
}

var (
	comment    = regexp.MustCompile(`(?s)/\*.*?\*/|//[^\n]*`)
	enumerator = regexp.MustCompile(`(?m)^\s*(LM_\w+)\s*=\s*(\d+)`)
	function   = regexp.MustCompile(`LM_API\b[^;(]*?\b(lm_\w+)\s*\(`)
	structure  = regexp.MustCompile(`(?s)typedef struct (\w+) \{(.*?)\}`)
	field      = regexp.MustCompile(`(\w+)(?:\[\d+\])?;`)
)

func drift(header, sources string) (problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	header, sources = comment.ReplaceAllString(header, ""), comment.ReplaceAllString(sources, "")

	inHeader := make(map[string]int)
	for _, match := range enumerator.FindAllStringSubmatch(header, -1) {
		inHeader[match[1]] = must(strconv.Atoi(match[2]))
	}
	for _, name := range slices.Sorted(maps.Keys(inHeader)) {
		if value, ok := enumerators[name]; !ok {
			problem("%s is missing in Go", name)
		} else if value != inHeader[name] {
			problem("%s is %d in the header and %d in Go", name, inHeader[name], value)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(enumerators)) {
		if _, ok := inHeader[name]; !ok {
			problem("%s is missing in the header", name)
		}
	}

	functions := function.FindAllStringSubmatch(header, -1)
	if len(functions) < 40 {
		problem("%d functions found in the header; there must be 40 or more", len(functions))
	}
	for _, match := range functions {
		called := regexp.MustCompile(`\b` + match[1] + `\(`).MatchString(sources)
		if _, excepted := notCalled[match[1]]; !called && !excepted {
			problem("%s is never called", match[1])
		}
	}

	structures := make(map[string]string)
	for _, match := range structure.FindAllStringSubmatch(header, -1) {
		structures[match[1]] = match[2]
	}
	for _, match := range field.FindAllStringSubmatch(structures["lm_config"], -1) {
		name := match[1]
		read := regexp.MustCompile(`\bc\.` + name + `\b(\)|,)`).MatchString(sources)
		set := regexp.MustCompile(`\b(c\.|config\.)` + name + ` = `).MatchString(sources)
		if name != "struct_size" && !(read && set) {
			problem("lm_config.%s is never read or never set", name)
		}
	}
	for _, match := range field.FindAllStringSubmatch(structures["lm_tensor_info"], -1) {
		if name := match[1]; name != "struct_size" && !regexp.MustCompile(`\binfo\.`+name+`\b`).MatchString(sources) {
			problem("lm_tensor_info.%s is never read", name)
		}
	}
	return problems
}

// header is the text of the header that the package was compiled with.
func header(t *testing.T) string {
	t.Helper()
	directory := strings.TrimSpace(string(must(exec.Command("pkg-config", "--variable=includedir", "lite_mamba").Output())))
	return string(must(os.ReadFile(filepath.Join(directory, "lite_mamba.h"))))
}

// sources are those of the package without its tests.
func sources(t *testing.T) string {
	t.Helper()
	text := string(must(os.ReadFile("shim.h")))
	for _, path := range must(filepath.Glob("*.go")) {
		if !strings.HasSuffix(path, "_test.go") {
			text += string(must(os.ReadFile(path)))
		}
	}
	return text
}

func TestNames(t *testing.T) {
	for name, value := range enumerators {
		var actual string
		switch {
		case name == "LM_OK" || strings.HasPrefix(name, "LM_ERR_"):
			actual = litemamba.Status(value).String()
		case strings.HasPrefix(name, "LM_VARIANT_"):
			actual = "LM_VARIANT_" + litemamba.Variant(value).String()
		case strings.HasPrefix(name, "LM_DTYPE_"):
			actual = "LM_DTYPE_" + litemamba.DType(value).String()
		case strings.HasPrefix(name, "LM_DEVICE_"):
			actual = "LM_DEVICE_" + litemamba.Device(value).String()
		case strings.HasPrefix(name, "LM_MATH_"):
			actual = "LM_MATH_" + litemamba.Math(value).String()
		case strings.HasPrefix(name, "LM_DT_INIT_"):
			actual = "LM_DT_INIT_" + litemamba.DtInit(value).String()
		}
		if !strings.EqualFold(actual, name) {
			t.Errorf("%s is called %s", name, actual)
		}
	}
	if name := litemamba.Variant(9).String(); name != "Variant(9)" {
		t.Errorf("an unknown variant is called %s", name)
	}
	if name := litemamba.Status(99).String(); name != "unknown status" {
		t.Errorf("an unknown status is called %s", name)
	}
}
