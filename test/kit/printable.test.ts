import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import t from 'tap'
import { printToTerminal } from '../../src/cli/logs.ts'
import { printable, printableJson } from '../../src/core/kit/printable.ts'
import { LAUNCHER } from '../support/launcher.ts'

/** Text from elsewhere on a terminal: what it would act on, or does not show, is escaped. */

/** One of each kind: C0, DEL, C1, directions, separators, no width, byte order mark. */
const KINDS = [
  '\u001b[31m',
  '\u0007',
  '\u007f',
  '\u009b31m',
  '\u202e',
  '\u2067',
  '\u061c',
  '\u2028',
  '\u200b',
  '\u2060',
  '\ufeff',
]

t.test('every kind is escaped, and what people write is not', (t) => {
  for (const kind of KINDS) t.match(printable(`a${kind}b`), /^[\x20-\x7e]+$/, encodeURI(kind))
  for (const text of ['Zürich', '日本', '👩‍💻', 'क्‍ष', 'a b']) t.equal(printable(text), text)
  t.end()
})

t.test('JSON has no such character, and says the same', (t) => {
  const value = { [`key${KINDS.join('')}`]: KINDS, text: 'Zürich 👩‍💻\nline', lone: '\ud800' }
  for (const indent of [undefined, 2]) {
    const text = printableJson(value, indent)
    t.same(JSON.parse(text), value)
    t.equal(printable(text.replaceAll('\n', '')), text.replaceAll('\n', ''), 'nothing is left to escape')
  }
  t.end()
})

function hedgerow(...args: string[]) {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-odd-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  return spawnSync(process.execPath, [LAUNCHER, ...args], {
    encoding: 'utf8',
    env: { ...process.env, HEDGEROW_STATE: dir },
  })
}

t.test('commands escape what they are given, as text and as JSON', (t) => {
  const odd = KINDS.join('x')
  for (const args of [
    ['trace', `${odd}:80`],
    ['trace', odd],
    [odd],
    ['get', odd],
    ['scale', odd, odd],
    ['up', `--${odd}`],
    ['apply', '-f', `/nowhere/${odd}`],
  ]) {
    for (const format of [[], ['-o', 'json']]) {
      const { status, stdout, stderr } = hedgerow(...args, ...format)
      t.not(status, 0)
      const said = (stdout + stderr).replaceAll('\n', '')
      t.equal(printable(said), said, encodeURI([...args, ...format].join(' ')))
    }
  }
  t.end()
})

t.test('a document that is not UTF-8 is called that', (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-odd-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const file = join(dir, 'document.yaml')
  const text = 'application_name: démo\n'
  for (const bytes of [
    Buffer.from(text, 'latin1'),
    Buffer.concat([Buffer.of(0xff, 0xfe), Buffer.from(text, 'utf16le')]),
  ]) {
    writeFileSync(file, bytes)
    const { status, stderr } = hedgerow('apply', '-f', file)
    t.equal(status, 2)
    t.match(stderr, /document\.yaml: it is not UTF-8 text\nSave it as UTF-8/)
  }
  t.end()
})

t.test('a document with the key __proto__ is told so, at any depth', (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'hedgerow-odd-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const file = join(dir, 'document')
  for (const text of ['{"__proto__": {"x": 1}}', 'a: [{ b: { __proto__: 1 } }]']) {
    writeFileSync(file, text)
    const { status, stderr } = hedgerow('apply', '-f', file)
    t.equal(status, 2)
    t.match(stderr, /has the key "__proto__"/)
  }
  t.end()
})

t.test(
  'the log of an instance on a terminal: colours stay and end with the line, nothing else is acted on',
  async (t) => {
    const shown = async (...chunks: string[]) => {
      const written: string[] = []
      await printToTerminal(Readable.from(chunks), (line) => written.push(line))
      return written.join('')
    }
    const reset = '\u001b[0m'
    t.equal(
      await shown('a \u001b[1;', '31mred\u001b[0m\n'),
      `a \u001b[1;31mred\u001b[0m${reset}\n`,
      'split over chunks',
    )
    t.equal(await shown('\u001b[38:2::255:0:0mx\nnext\n'), `\u001b[38:2::255:0:0mx${reset}\nnext\n`)
    t.equal(await shown('Zürich 日本\t👩‍💻\r\nlast'), 'Zürich 日本\t👩‍💻\nlast\n')
    const acted = [
      '\u001b]0;title\u0007',
      '\u001b[2J',
      '\u001b[6n',
      '\u001bc',
      '\u001b[?1049h',
      '\u009b2J',
      '\u001b[1;31',
      '\b\r',
      ...KINDS.slice(1),
    ]
    for (const text of acted) {
      const line = await shown(`a${text}b\n`)
      t.match(line, /^a[\x20-\x7e]+b\n$/, encodeURI(text))
    }
    const long = await shown('x'.repeat(70_000), 'y'.repeat(70_000), '\n')
    t.equal(long.replaceAll('\n', '').length, 140_000, 'a line without end is shown in pieces')
  },
)
