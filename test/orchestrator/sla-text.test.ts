import fc from 'fast-check'
import { test } from 'tap'
import { MeshError } from '../../src/core/errors.ts'
import type { Fault } from '../../src/orchestrator/sla/findings.ts'
import { parseSla, readSlaText } from '../../src/orchestrator/sla/parse.ts'
import { faultsOfText } from './sla-documents.ts'

test('a text is read as JSON or YAML', async (t) => {
  const yaml = `# the shop\napplications:\n  - application_name: shop\n    application_namespace: acme\n    microservices:\n      - microservice_name: cart\n        cmd: [run, "\${PORT}"]\n        workdir:\n        port: 80\n`
  const parsed = parseSla(readSlaText(yaml, 'shop.yaml'))
  t.match(
    parsed,
    { kind: 'accepted', apps: [{ services: [{ cmd: ['run', '${PORT}'], ports: [{ port: 80 }] }] }] },
    'a YAML document is accepted, its variables are kept, and an empty key says nothing',
  )
  t.match(
    readSlaText('{applications: [], }', 'flow.yaml'),
    { applications: [] },
    'YAML may be written with braces, and with a last comma',
  )
  t.match(readSlaText('\ufeff{"a": 1}', 'mark.json'), { a: 1 }, 'a byte order mark is skipped')
})

/** A text, what it is called, and the fault: `why` says what is wrong with the text. */
interface Row {
  why: string
  text: string
  name: string
  path: string
  problem: RegExp
}

test('a text that is no document is refused with its line and column', async (t) => {
  const rows: Row[] = [
    {
      why: 'YAML indented below a value',
      text: 'a: 1\n b: 2\n',
      name: 's.yaml',
      path: 's.yaml:1:4',
      problem: /is not YAML/,
    },
    {
      why: 'two YAML documents',
      text: 'a: 1\n---\nb: 2\n',
      name: 's.yaml',
      path: 's.yaml:2:1',
      problem: /several documents/,
    },
    {
      why: 'JSON cut short inside a list',
      text: '{"a": [1',
      name: 's.json',
      path: 's.json:1:9',
      problem: /is not JSON/,
    },
    {
      why: 'JSON cut short after a key',
      text: '{\n "a":',
      name: 's.json',
      path: 's.json:2:6',
      problem: /unexpected end/,
    },
    { why: 'a text of white space', text: ' \n', name: 's.json', path: 's.json', problem: /is empty/ },
  ]
  for (const { why, text, name, path, problem } of rows) t.match(faultsOfText(text, name), [{ path, problem }], why)
})

test('a text that would take too much memory is refused', async (t) => {
  const rows: Row[] = [
    {
      why: 'JSON lists in lists, too deep',
      text: '['.repeat(100_000),
      name: 's.json',
      path: 's.json',
      problem: /more than 64 levels/,
    },
    {
      why: 'YAML lists in lists, too deep',
      text: `${'- '.repeat(50_000)}x`,
      name: 's.yaml',
      path: 's.yaml',
      problem: /more than 64 levels/,
    },
    {
      why: 'a text that is too large',
      text: `a: ${'x'.repeat(33 * 1024 * 1024)}`,
      name: 's.yaml',
      path: 's.yaml',
      problem: /larger than/,
    },
    {
      why: 'YAML aliases that multiply',
      text: `a: &a [x,x,x,x,x,x,x,x,x]\n${['b', 'c', 'd', 'e', 'f', 'g', 'h'].map((c, i) => `${c}: &${c} [${`*${'abcdefgh'[i]},`.repeat(9)}]`).join('\n')}\n`,
      name: 's.yaml',
      path: 's.yaml',
      problem: /alias/,
    },
  ]
  for (const { why, text, name, path, problem } of rows) t.match(faultsOfText(text, name), [{ path, problem }], why)
})

test('YAML merge keys are merged, and the keys of the object itself win', async (t) => {
  const text = (second: string) => `
application_name: shop
application_namespace: acme
microservices:
  - &base { microservice_name: a, cmd: [run], memory: 100, vcpus: 2, environment: [A=1] }
  - &other { microservice_name: x, cmd: [other], storage: 7 }
  - ${second}
`
  const specOf = (second: string) => {
    const parsed = parseSla(readSlaText(text(second), 'shop.yaml'))
    t.same(parsed.warnings, [], `nothing is warned of in ${second}`)
    return parsed.kind === 'accepted' ? parsed.apps[0]?.services[2] : parsed.faults
  }
  t.match(
    specOf('{ <<: *base, microservice_name: b, memory: 200 }'),
    { name: 'b', memoryMb: 200, vcpus: 2, cmd: ['run'] },
    'the merge key comes first: its keys are there, except those that the object has itself',
  )
  t.match(
    specOf('{ microservice_name: b, memory: 200, <<: *base }'),
    { name: 'b', memoryMb: 200, vcpus: 2 },
    'the merge key comes last: the keys of the object win all the same',
  )
  t.match(
    specOf('{ <<: [*other, *base], microservice_name: b }'),
    { cmd: ['other'], storageMb: 7, vcpus: 2 },
    'of several objects merged, the first that has a key wins',
  )
  t.match(
    faultsOfText(text('{ <<: 5 }'), 's.yaml'),
    [{ problem: /merge sources must be maps/ }],
    'a number cannot be merged',
  )
  t.match(faultsOfText('a: &a { b: *a }', 's.yaml'), [{ problem: /part of/ }], 'an object cannot be inside itself')
})

test('a key that occurs twice is a fault with line and column, in JSON as in YAML', async (t) => {
  const rows: { why: string; text: string; paths: string[]; key?: string }[] = [
    { why: 'YAML', text: 'replicas: 3\nb: 2\nreplicas: 1\n', paths: ['3:1'] },
    { why: 'YAML, quoted', text: '"replicas": 3\nreplicas: 1\n', paths: ['2:1'] },
    { why: 'YAML, merged twice', text: 'a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n', paths: ['4:3'], key: '<<' },
    { why: 'JSON', text: '{\n  "replicas": 3,\n  "b": [],\n  "replicas": 1\n}', paths: ['4:3'] },
    { why: 'JSON in one line', text: '{"replicas": 3, "replicas": 1}', paths: ['1:17'] },
    { why: 'JSON, escaped', text: '{"replicas": 3, "repl\\u0069cas": 1}', paths: ['1:17'] },
    { why: 'JSON, inside a list', text: '[{"a": {"replicas": 1, "replicas" : 2}}, {"replicas": 1}]', paths: ['1:24'] },
    { why: 'JSON, several', text: '{"replicas":1,"replicas":2,"replicas":3}', paths: ['1:15', '1:28'] },
    { why: 'flow YAML', text: '{replicas: 1, replicas: 2}', paths: ['1:15'] },
  ]
  for (const { why, text, paths, key = 'replicas' } of rows) {
    for (const name of ['s.yaml', 's.json', 'standard input', 's.txt']) {
      const faults = faultsOfText(text, name)
      t.same(
        faults.map(({ path }) => path),
        paths.map((path) => `${name}:${path}`),
        `${why}, as ${name}: each further place of the key is a fault`,
      )
      for (const { problem } of faults)
        t.equal(problem, `the key "${key}" occurs twice in one object`, `${why}, as ${name}: the key is named`)
    }
  }
  t.same(
    readSlaText('{"a": {"k": 1}, "b": {"k": 1}, "c": ["k", "k"], "k": "k\\"k:"}', 's'),
    { a: { k: 1 }, b: { k: 1 }, c: ['k', 'k'], k: 'k"k:' },
    'one key in several objects, or in texts, is no fault',
  )
})

test('a text means the same whatever its file is called', async (t) => {
  const texts = ['a: 1\n', '{"a": 1}', '{a: 1, b: [2, ], }', '- a\n', '{"a": 1,}']
  for (const text of texts) {
    const [first, ...others] = ['s.yaml', 's.json', 's'].map((name) => JSON.stringify(readSlaText(text, name)))
    for (const other of others) t.equal(other, first, `${JSON.stringify(text)} is read alike under every name`)
  }
})

test('any text is read or refused with faults', async (t) => {
  const signs = ['a', '1', ' ', '\n', '\t', ':', ',', '[', ']', '{', '}', '"', "'", '|', '>', '#', '?', '!', '%']
  const yamlish = fc.array(fc.constantFrom(...signs, '- ', '&x', '*x'))
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        yamlish.map((words) => words.join('')),
      ),
      fc.constantFrom('a.json', 'a.yaml', 'stdin'),
      (text, name) => {
        try {
          parseSla(readSlaText(text, name))
          return true
        } catch (error) {
          return (
            error instanceof MeshError &&
            (error.details['faults'] as Fault[]).every(({ path }) => path.startsWith(name))
          )
        }
      },
    ),
    { numRuns: 1500, seed: 3 },
  )
  t.pass('each text was read or refused with faults that name the file')
})
