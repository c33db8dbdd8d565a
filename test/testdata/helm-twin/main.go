// Helm's engine, as far as one can have it without Helm: Go's text/template with sprig, and Helm's own functions as its
// documentation states them. Reads a chart's templates with their data from stdin, as JSON; writes what each came to.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"sigs.k8s.io/yaml"
)

type input struct {
	Templates map[string]string                          `json:"templates"`
	Values    map[string]interface{}                     `json:"values"`
	Chart     struct{ Name, Version, AppVersion string } `json:"chart"`
	Release   map[string]interface{}                     `json:"release"`
	Existing  map[string]map[string]interface{}          `json:"existing"`
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	var in input
	must(json.NewDecoder(os.Stdin).Decode(&in))
	// A float64 in JSON; Helm has these as they are.
	in.Release["Revision"] = int(in.Release["Revision"].(float64))
	set := template.New("chart").Option("missingkey=zero")
	functions := sprig.TxtFuncMap()
	delete(functions, "env")
	delete(functions, "expandenv")
	functions["include"] = func(name string, data interface{}) (string, error) {
		var out strings.Builder
		err := set.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	functions["required"] = func(message string, value interface{}) (interface{}, error) {
		if text, isText := value.(string); value == nil || (isText && text == "") {
			return nil, errors.New(message)
		}
		return value, nil
	}
	functions["fail"] = func(message string) (string, error) { return "", errors.New(message) }
	functions["lookup"] = func(apiVersion, kind, namespace, name string) map[string]interface{} {
		found := in.Existing[kind+"/"+namespace+"/"+name]
		if found == nil || found["apiVersion"] != apiVersion {
			return map[string]interface{}{}
		}
		return found
	}
	functions["toYaml"] = func(value interface{}) string {
		data, err := yaml.Marshal(value)
		if err != nil {
			return ""
		}
		return strings.TrimSuffix(string(data), "\n")
	}
	functions["fromYaml"] = func(text string) map[string]interface{} {
		value := map[string]interface{}{}
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			value["Error"] = err.Error()
		}
		return value
	}
	functions["toJson"] = func(value interface{}) string {
		data, err := json.Marshal(value)
		if err != nil {
			return ""
		}
		return string(data)
	}
	functions["fromJson"] = func(text string) map[string]interface{} {
		value := map[string]interface{}{}
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			value["Error"] = err.Error()
		}
		return value
	}
	set.Funcs(functions)
	names := []string{}
	for name, text := range in.Templates {
		names = append(names, name)
		_, err := set.New(name).Parse(text)
		must(err)
	}
	sort.Strings(names)
	out := map[string]string{}
	for _, name := range names {
		if base := name[strings.LastIndex(name, "/")+1:]; strings.HasPrefix(base, "_") {
			continue
		}
		var text strings.Builder
		must(set.ExecuteTemplate(&text, name, map[string]interface{}{
			"Values": in.Values, "Chart": in.Chart, "Release": in.Release,
		}))
		out[name] = strings.ReplaceAll(text.String(), "<no value>", "")
	}
	must(json.NewEncoder(os.Stdout).Encode(out))
}
