import { execFile, spawnSync } from 'node:child_process'
import t from 'tap'

const canIsolate = spawnSync('unshare', ['-Urn', 'unshare', '-U', 'true']).status === 0
const skip = canIsolate ? false : 'needs user namespaces'

t.setTimeout(280_000)

/** On a machine of its own, and without any capability. */
function world(): Promise<Record<string, unknown>> {
  const inner = `ip link set lo up && exec unshare -U "${process.execPath}" "${import.meta.dirname}/unasked-world.ts"`
  return new Promise((resolve, reject) => {
    execFile(
      'unshare',
      ['-Urn', 'sh', '-c', inner],
      { encoding: 'utf8', timeout: 100_000 },
      (error, stdout, stderr) => {
        if (error === null) resolve(JSON.parse(stdout) as Record<string, unknown>)
        else reject(new Error(stderr, { cause: error }))
      },
    )
  })
}

t.test(
  'without rights, a name takes its ports from the machine only once somebody asks for it',
  { skip },
  async (t) => {
    const found = await world()
    t.equal(found['capabilities'], '0000000000000000')
    t.equal(found['before'], true, 'a server of the machine has the port of a name that nobody asked for')
    t.match(
      found['checkBefore'],
      /takes its ports from servers that listen on every address: now NUMBERED\/tcp \(no right/,
    )
    const [db, number] = ['shop.acme.db.prod.0', 'shop.acme.number.prod.0']
    t.equal(found['byNumber'], number, 'an address that a document requests answers unasked')
    t.equal(found['firstCall'], db, 'the first connection after the answer')
    t.equal(found['listeners'], 2)
    t.equal(found['after'], false)
    t.equal(found['check'], true, 'check names the port')
    t.equal(found['killed'], 'ECONNREFUSED')
    t.equal(found['held'], db, 'an address that a program holds, as soon as the agent has started again')
    t.equal(found['heldListeners'], 2)
    t.equal(found['successor'], true)
    t.equal(found['handedOver'], db, 'and after a hand-over')
    t.same(found['meanwhile'], [db, db, db], 'names that were asked for first while the agent was replaced')
    t.same(found['meanwhileAfter'], [db, db, db])
    t.match(found['conflictChecked'], /another program/, 'a server of the machine that was first: check')
    t.match(found['conflictResolved'], [/would answer instead/], 'and resolve')
    t.equal(found['damaged'], db, 'held also where the list of such addresses is damaged')
  },
)
