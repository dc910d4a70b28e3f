import t from 'tap'
import { parse } from 'yaml'
import type { RootClient } from '../../src/client/root-client.ts'
import { dataText } from '../../src/cli/output.ts'
import { explanationOf } from '../../src/cli/explain.ts'
import { namesOf, nothingListed } from '../../src/cli/get.ts'
import { meantService } from '../../src/cli/names.ts'
import { clearProgress, inAscii, isAsciiOnly, progress } from '../../src/cli/terminal.ts'
import { INSTALLATIONS, upgradeSteps } from '../../src/cli/upgrade.ts'
import { watch, type View, type WatchParts } from '../../src/cli/watch.ts'
import { MeshError } from '../../src/core/errors.ts'

/** How commands talk: which service was meant, what a terminal shows, what is shown again. */

t.test('a service that was named wrongly: which was meant, and that four labels are needed', async (t) => {
  const ids = ['shop.acme.cart.prod', 'shop.acme.cart.test', 'shop.acme.pay.prod', 'blog.acme.web.prod']
  const rows = [
    { given: 'shop.acme.pya.prod', says: 'Did you mean shop.acme.pay.prod?' },
    { given: 'shop.acme.crt', says: 'four labels.*Choose one of: shop.acme.cart.prod, shop.acme.cart.test\\.' },
    { given: 'shop.acme.cart', says: 'four labels.*Choose one of: shop.acme.cart.prod, shop.acme.cart.test\\.' },
    { given: 'blog.acme', says: 'four labels.*Did you mean blog.acme.web.prod\\?' },
    { given: 'pay', says: 'four labels.*Did you mean shop.acme.pay.prod\\?' },
    { given: 'nothing', says: 'four labels.*`hedgerow get services` lists' },
    { given: 'a.b.c.d', says: '^`hedgerow get services` lists' },
    { given: 'shop.acme.cart.prod.0', says: 'four labels.*Did you mean shop.acme.cart.prod' },
    { given: '', says: 'lists' },
    { given: '...', says: 'lists' },
  ]
  for (const { given, says } of rows) t.match(meantService(given, ids), new RegExp(says), given)
  t.match(meantService('shop.acme.cart', []), 'lists')
})

t.test('explain says which instance was meant', async (t) => {
  const ids = ['shop.acme.cart.prod.0', 'shop.acme.cart.prod.1', 'shop.acme.pay.prod.0']
  const all = async (_: string, { query: { name = '' } }: { query: { name?: string } }) =>
    ids.filter((id) => id.startsWith(name)).map((id) => ({ id }))
  const ask = async (_: string, __: string, { path: { name: instance } }: { path: { name: string } }) =>
    Promise.reject(new MeshError('INSTANCE_UNKNOWN', { instance }))
  const root = { all, ask } as unknown as RootClient
  const rows = [
    { given: 'shop.acme.crt.prod.0', says: 'Did you mean shop.acme.cart.prod.0?' },
    { given: 'shop.acme.pay.prod.7', says: 'Did you mean shop.acme.pay.prod.0?' },
    { given: 'a.b.c.d.0', says: '`hedgerow get instances` lists the instances there are.' },
  ]
  for (const { given, says } of rows) {
    const refused: unknown = await explanationOf(root, given, { most: 1 }).catch((error: unknown) => error)
    t.match(refused, { details: { instance: given, remedy: says } }, given)
  }
})

t.test('which outputs get ASCII alone', async (t) => {
  const rows = [
    { locale: 'de_DE.UTF-8', isTerminal: true, is: false },
    { locale: 'en_US.utf8', isTerminal: false, is: false },
    { locale: 'C', isTerminal: true, is: true },
    { locale: 'POSIX', isTerminal: false, is: true },
    { locale: 'de_DE.ISO-8859-1', isTerminal: true, is: true },
    { locale: undefined, isTerminal: true, is: true },
    { locale: undefined, isTerminal: false, is: false },
  ]
  for (const { locale, isTerminal, is } of rows)
    t.equal(isAsciiOnly(locale, isTerminal), is, `${locale} ${isTerminal ? 'on a terminal' : 'in a file'}`)
  t.equal(
    inAscii('the node’s “name” – 3 × … ≤ 5 µs → done, café'),
    'the node\'s "name" - 3 x ... <= 5 us -> done, café',
  )
})

t.test('progress is one line of a terminal, and nothing elsewhere', async (t) => {
  const written: string[] = []
  const write = (text: string) => written.push(text) > 0
  progress('1 of 2', { write })
  t.same(written, [])
  progress('1 of 2', { write, isTTY: true })
  clearProgress()
  clearProgress()
  t.same(written, ['\r\u001b[K1 of 2', '\r\u001b[K'])
})

t.test('YAML reads back as it was, and holds nothing that a terminal obeys', async (t) => {
  const value = {
    a: ['\u001b[31mred\u0007', 'two\nlines\n', '\u202eturned', 'tab\there', 'yes', '1', '', null],
    b: { c: 1.5 },
  }
  const text = await dataText(value, 'yaml')
  t.same(parse(text), value)
  t.notMatch(text.replaceAll('\n', ''), /[\p{Cc}\u202e]/u)
  t.equal(await dataText([], 'yaml', 'stream'), '---\n[]\n')
})

/** Asked once for each view or error, then ended. */
async function watched(views: ReadonlyArray<View | Error>, format: 'table' | 'json' | 'yaml', isTTY = false) {
  const ended = new AbortController()
  const left = [...views]
  let text = ''
  const parts: WatchParts = {
    context: { format },
    output: { isTTY, write: (some) => void (text += some) },
    read: async () => {
      const next = left.shift()
      if (left.length === 0) setImmediate(() => ended.abort())
      if (next instanceof Error) throw next
      return next as View
    },
    sleep: () => new Promise(setImmediate),
    signal: ended.signal,
  }
  await watch(parts)
  return text
}

t.test('--watch shows what has changed, once', async (t) => {
  const [one, two] = [1, 2].map((value) => ({ value: [value], text: `${value}\n` })) as [View, View]
  const away = new MeshError('NOT_RUNNING', { what: 'root', url: 'https://x' })
  t.equal(await watched([one, one, two, two, one], 'table'), '1\n\n2\n\n1\n', 'in a file: one after the other')
  const anew = '\u001b[H\u001b[2J\u001b[3J'
  t.equal(await watched([one, one, two], 'table', true), `${anew}1\n${anew}2\n`, 'on a terminal: in its place')
  t.equal(await watched([one, two], 'json', true), '[1]\n[2]\n', 'as JSON: one object a line')
  t.equal(await watched([one, two], 'yaml'), '---\n- 1\n---\n- 2\n', 'as YAML: documents')
  t.equal(await watched([one, away, away, two], 'json'), '[1]\n[2]\n', 'goes on when who was away is back')
  await t.rejects(watched([away], 'json'), { code: 'NOT_RUNNING' }, 'but not when nobody answers at all')
  await t.rejects(watched([one, new MeshError('FORBIDDEN', {}), one], 'json'), { code: 'FORBIDDEN' })
})

t.test('an empty list says why', async (t) => {
  const names = ['shop.acme.cart.prod', 'shop.acme.pay.prod']
  const rows = [
    { filter: undefined, names: [], says: 'There are no services.' },
    { filter: 'shop', names: [], says: 'There are no services.' },
    {
      filter: 'shop.acme.crt.prod',
      names,
      says: 'None of the services has a name that begins with "shop.acme.crt.prod". Did you mean shop.acme.cart.prod?',
    },
    { filter: 'x\u001b', names, says: 'None of the services has a name that begins with "x\\x1b".' },
  ]
  for (const { filter, names, says } of rows) t.equal(nothingListed('services', filter, names), says)
  t.same(namesOf({ id: 'edge/n1 edge/n2', from: 'edge/n1', to: 'edge/n2' }), ['edge/n1', 'edge/n2'], 'of a link: nodes')
  t.same(namesOf({ name: 'edge', id: undefined }), ['edge'], 'of a cluster')
})

t.test('what to do for a new version, as this one was installed', async (t) => {
  const rows = [
    {
      installation: 'Debian package',
      roles: ['root', 'cluster'],
      are: ['apt install', 'systemctl try-restart hedgerow-root', 'systemctl try-restart hedgerow-cluster'],
    },
    { installation: 'Debian package', roles: ['agent'], are: ['apt install', 'hedgerow restart'] },
    { installation: 'Debian package', roles: ['relay'], are: ['apt install', 'systemctl try-restart hedgerow-relay'] },
    { installation: 'archive', roles: ['root', 'cluster', 'agent'], are: ['tar -xzf', 'ln -sfn', 'hedgerow restart'] },
    { installation: 'npm package', roles: ['root'], are: ['npm install', 'end `hedgerow root`'] },
    { installation: 'clone', roles: [], are: ['git pull', 'npm ci', 'hedgerow restart'] },
  ] as const
  for (const { installation, roles, are } of rows) {
    const steps = upgradeSteps({ version: '1.2.3', installation, roles })
    const commands = steps.flatMap((step) => step.commands)
    t.same(
      [commands[0], ...commands.slice(-2)],
      ['hedgerow backup FILE', 'hedgerow get nodes -o wide', 'hedgerow check --mesh'],
    )
    const between = commands.slice(1, -2)
    t.equal(between.length, are.length, `${installation}, ${roles.join(' ')}: ${between.join('; ')}`)
    for (const [at, begin] of are.entries()) t.ok(between[at]?.startsWith(begin), begin)
  }
  t.same([...new Set(rows.map(({ installation }) => installation))], INSTALLATIONS)
})
