#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prunes a description of abidw, read from stdin, to the exported functions and the types they need: what
else stands in the library's debug information changes with every compiler and every internal change.

With the pruned description of an earlier library as argument, it also leaves out what structs that begin with
their struct_size have gained at their end: that is no change to programs which know the earlier sizes.
"""

import sys
import xml.etree.ElementTree as ElementTree

corpus = ElementTree.parse(sys.stdin).getroot()
functions, types = [], {}
for element in corpus.iter():
    if element.tag == "function-decl" and "elf-symbol-id" in element.attrib:
        functions.append(element)
    elif "id" in element.attrib and element.tag != "subrange":
        types[element.get("id")] = element

numbers = {}  # old: new, in order of appearance


def visit(element):
    for part in element.iter():
        for reference in ("type-id", "naming-typedef-id"):
            old = part.get(reference)
            if old is not None and old not in numbers:
                numbers[old] = f"type-{len(numbers) + 1}"
                if old in types:
                    visit(types[old])


exported = [symbol.get("name") for symbol in corpus.iter("elf-symbol")]
described = [function.get("elf-symbol-id") for function in functions]
if sorted(exported) != sorted(described):
    sys.exit(f"no types of {set(exported) - set(described)}: is the debug information complete?")
functions.sort(key=lambda function: function.get("name"))
for function in functions:
    visit(function)

if len(sys.argv) > 1:
    earlier = {
        struct.get("name"): int(struct.get("size-in-bits"))
        for struct in ElementTree.parse(sys.argv[1]).iter("class-decl")
        if "size-in-bits" in struct.attrib
    }
    for struct in types.values():
        members = struct.findall("data-member")
        size = earlier.get(struct.get("name"))
        if size and members and members[0].find("var-decl").get("name") == "struct_size":
            for member in members:
                if int(member.get("layout-offset-in-bits")) >= size:
                    struct.remove(member)
            struct.set("size-in-bits", str(min(size, int(struct.get("size-in-bits")))))

for unit in corpus.findall("abi-instr") + corpus.findall("elf-needed"):
    corpus.remove(unit)
unit = ElementTree.SubElement(corpus, "abi-instr", {"address-size": "64", "path": "lite_mamba", "language": "LANG_C11"})
unit.extend([types[old] for old in numbers if old in types])
unit.extend(functions)
for part in unit.iter():
    for name in ("id", "type-id", "naming-typedef-id"):
        if part.get(name) in numbers:
            part.set(name, numbers[part.get(name)])
    if part.tag == "subrange":
        del part.attrib["id"]
    part.tail = part.text = None
corpus.text = corpus.tail = None
ElementTree.indent(corpus)
print(ElementTree.tostring(corpus, encoding="unicode"))
