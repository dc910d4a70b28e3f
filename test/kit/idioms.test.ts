import t from 'tap'
import { onAbort, unlessAborted, within } from '../../src/core/kit/abort.ts'
import { BoundedMap } from '../../src/core/kit/bounded-map.ts'
import { parseHostPort, printHostPort, splitHostPort, unmapped } from '../../src/core/kit/host-port.ts'
import { printable, printableLines, printableValue } from '../../src/core/kit/printable.ts'

t.test('an abort listener runs once, at once where the signal has aborted, and not after it was disposed', (t) => {
  const reasons: unknown[] = []
  const note = (reason: unknown) => reasons.push(reason)
  onAbort(AbortSignal.abort('before'), note)
  const controller = new AbortController()
  using _kept = onAbort(controller.signal, note)
  onAbort(controller.signal, note)[Symbol.dispose]()
  controller.abort('later')
  t.same(reasons, ['before', 'later'])
  t.end()
})

t.test('waiting ends with the promise, the signal or the timeout, whichever is first', async (t) => {
  const never = new Promise<never>(() => undefined)
  const controller = new AbortController()
  t.equal(await unlessAborted(Promise.resolve(1), controller.signal), 1)
  t.equal(await within(Promise.resolve(2), 1_000, controller.signal), 2)
  await t.rejects(within(never, 1, controller.signal), { code: 'REQUEST_TIMEOUT' })
  const waits = [unlessAborted(never, controller.signal), within(never, 60_000, controller.signal)]
  controller.abort(new Error('no longer needed'))
  for (const wait of waits) await t.rejects(wait, /no longer needed/)
})

t.test('a bounded map evicts an entry it may drop, or else the oldest', (t) => {
  const plain = new BoundedMap<string, number>(2)
  plain.set('a', 1).set('b', 2).set('a', 3).set('c', 4)
  t.same(
    [...plain],
    [
      ['a', 3],
      ['c', 4],
    ],
  )
  const picky = new BoundedMap<string, number>(3, (value) => value === 0)
  picky.set('a', 1).set('b', 0).set('c', 0).set('d', 1)
  t.same([...picky.keys()], ['a', 'd'], 'all that may be forgotten go before anything that may not')
  picky.set('e', 1).set('f', 1)
  t.same([...picky.keys()], ['d', 'e', 'f'])
  t.equal(
    picky.getOrCreate('d', () => 9),
    1,
  )
  t.equal(
    picky.getOrCreate('g', () => 9),
    9,
  )
  t.end()
})

t.test('a host and port are parsed, and malformed ones are refused', (t) => {
  for (const [text, split] of [
    ['example.org', { host: 'example.org' }],
    ['10.0.0.1:80', { host: '10.0.0.1', port: 80 }],
    ['[::1]:0', { host: '::1', port: 0 }],
    ['[fd00::7]', { host: 'fd00::7' }],
    ['a_b:1', { host: 'a_b', port: 1 }],
    ['[10.0.0.1]:80', undefined],
    ['::1:80', undefined],
    ['host:65536', undefined],
    ['-a:1', undefined],
    ['a b:1', undefined],
    ['\u001b[31m:1', undefined],
    ['', undefined],
  ] as const)
    t.same(splitHostPort(text), split, text)
  t.same(parseHostPort('10.0.0.1:0'), undefined, 'port 0 cannot be dialled')
  t.same(parseHostPort('10.0.0.1'), undefined)
  t.equal(printHostPort('::1', 80), '[::1]:80')
  t.equal(unmapped('::FFFF:10.0.0.1'), '10.0.0.1')
  t.equal(unmapped('::1'), '::1')
  t.end()
})

t.test('no text from elsewhere reaches a terminal with its control characters', (t) => {
  t.equal(printable('\u001b[31mRED\u001b]0;PWNED\u0007:1'), '\\x1b[31mRED\\x1b]0;PWNED\\x07:1')
  t.equal(printable('one\r\ntwo\u009b2J\u202egpj.exe\u2028'), 'one\\x0d\\x0atwo\\x9b2J\\u202egpj.exe\\u2028')
  t.equal(printable('Zoë 名前 🙂'), 'Zoë 名前 🙂', 'letters of every script stay')
  t.equal(printable('\ud800'), '\ufffd', 'half a character is none')
  t.equal(printableLines('a\n\tb\u001b[2J'), 'a\n\tb\\x1b[2J')
  const when = new Date(0)
  t.same(printableValue({ 'k\n': ['\u0007', 1, null], when }), { 'k\\x0a': ['\\x07', 1, null], when })
  t.end()
})
