#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Compares an interface as introspected with its description in the tree.

usage: compare_xml.py DESCRIPTION.xml INTROSPECTED.xml
"""
import sys
import xml.etree.ElementTree as ET

EMITS = 'org.freedesktop.DBus.Property.EmitsChangedSignal'


def emits(node):
    for a in node.findall('annotation'):
        if a.get('name') == EMITS:
            return a.get('value')
    return 'true'  # the specification's default


def members(interface):
    found = set()
    for m in interface.findall('method'):
        args = tuple((a.get('name'), a.get('type'), a.get('direction', 'in'))
                     for a in m.findall('arg'))
        found.add(('method', m.get('name'), args))
    for s in interface.findall('signal'):
        args = tuple((a.get('name'), a.get('type')) for a in s.findall('arg'))
        found.add(('signal', s.get('name'), args))
    for p in interface.findall('property'):
        found.add(('property', p.get('name'), p.get('type'), p.get('access'), emits(p)))
    return found


def main():
    described = ET.parse(sys.argv[1]).getroot().find('interface')
    name = described.get('name')
    for i in ET.parse(sys.argv[2]).getroot().findall('interface'):
        if i.get('name') == name:
            introspected = i
            break
    else:
        sys.exit(f'{name}: the object does not have this interface')
    a, b = members(described), members(introspected)
    for m in sorted(a - b, key=str):
        print(f'{name}: only in the description: {m}')
    for m in sorted(b - a, key=str):
        print(f'{name}: only in the agent: {m}')
    sys.exit(a != b)


main()
