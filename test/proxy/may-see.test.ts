import t from 'tap'
import { maySee } from '../../proxy/decide/may-see.ts'
import { CallerFinder } from '../../proxy/intercept/caller.ts'
import { type Caller, NODE_CALLER } from '../../proxy/flow/flow.ts'
import { LiteralTable } from './world.ts'

/*
 * Who may know that a service of an organisation is there.
 */

const CART = 'shop.acme.cart.prod'
const OWN = 'shop.acme.web.prod'
const STRANGER = 'site.beta.front.prod'
const CALLED = 'bank.beta.ledger.prod'

function table(allow: readonly string[], allowOfCalled: readonly string[] = []) {
  const made = new LiteralTable(
    { id: CART, on: ['edge/a'], ports: [80], vips: { 'any.rr': 0xe0203 } },
    { id: CALLED, on: ['edge/a'], ports: [80], vips: { 'any.rr': 0xe0204 } },
  )
  const cart = { ...made.target(CART).service, isOwned: true as const, allow }
  const called = made.entry(CALLED)!
  const entry = (id: string) =>
    id === CALLED ? { ...called, service: { ...called.service, allow: allowOfCalled } } : made.entry(id)
  return { cart, free: { ...cart, isOwned: undefined }, table: { entry } }
}

const instance = (service: string): Caller => ({ kind: 'instance', id: `${service}.0`, service })

t.test('a service of an organisation is seen by who may call it, and by whom it may call by name', async (t) => {
  const rows: [caller: Caller, allow: string[], allowOfCalled: string[], sees: boolean, why: string][] = [
    [instance(OWN), ['shop.acme'], [], true, 'of the same app'],
    [instance(STRANGER), ['shop.acme'], [], false, 'of another organisation'],
    [instance(STRANGER), ['site.beta'], [], true, 'its app is allowed'],
    [instance(STRANGER), [STRANGER], [], true, 'it is allowed itself'],
    [instance(STRANGER), ['*'], [], true, 'everybody is'],
    [NODE_CALLER, ['shop.acme'], [], false, 'a program of the node'],
    [NODE_CALLER, ['node'], [], true, 'programs of nodes are allowed'],
    [instance(CALLED), ['shop.acme'], [], false, 'it calls nobody'],
    [instance(CALLED), ['shop.acme'], [CART], true, 'it is called by it, and sees who calls'],
    [instance(CALLED), ['shop.acme'], ['shop.acme'], true, 'its app may'],
    [instance(CALLED), ['shop.acme'], ['*'], false, 'who lets everybody call sees nobody for that'],
  ]
  for (const [caller, allow, allowOfCalled, sees, why] of rows) {
    const { cart, free, table: known } = table(allow, allowOfCalled)
    t.equal(maySee(caller, cart, known), sees, why)
    const { isOwned: _, ...unowned } = free
    t.equal(maySee(caller, unowned, known), true, `${why}: of no organisation`)
  }
})

t.test('who asks is looked for only where it makes a difference', async (t) => {
  const [inside, outside] = ['172.18.0.5', '127.0.0.1']
  const containers = {
    isContainer: (address: string) => address.startsWith('172.18.'),
    instanceAt: (address: string) => (address === inside ? `${OWN}.0` : undefined),
  }
  const finder = new CallerFinder(() => [{ instance: `${OWN}.1`, pids: [1] }], undefined, containers)
  const from = (address: string) => ({ protocol: 'udp', address, port: 1 }) as const
  const isOwn = (caller: Caller) => caller.kind === 'instance' && caller.service === OWN
  t.equal(finder.maySee(from(inside), isOwn), true, 'a container, by its address')
  t.equal(
    finder.maySee(from('172.18.0.9'), () => true),
    false,
    'an address of containers that none has',
  )
  t.equal(
    finder.maySee(from(outside), () => true),
    true,
    'all here may',
  )
  t.equal(
    finder.maySee(from(outside), () => false),
    false,
    'nobody here may',
  )
  const looked = finder.maySee(from(outside), isOwn)
  t.type(looked, Promise, 'an instance here may, and programs of the node may not')
  t.equal(await looked, false, 'who has gone may only what all may')
})
