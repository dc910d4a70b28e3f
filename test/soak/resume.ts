import { scriptOptions } from '../../.config/script-options.ts'
import { soak, type Footprint } from './soak.ts'

/** `npm run soak -- --minutes 3 --seed 7 --flows 300`: exits 1 when a byte, an END or a flow is not as it must be. */
const values = scriptOptions({
  name: 'npm run soak',
  about: 'Sends flows with checksums through two agents while their connections die, and checks every byte.',
  options: {
    minutes: { kind: 'number', default: 3, meaning: 'how long' },
    seed: { kind: 'number', meaning: 'of the random choices; by default another one each time' },
    flows: { kind: 'number', default: 300, meaning: 'flows at a time' },
    outage: { kind: 'number', default: 9, meaning: 'the longest outage of all paths, in seconds' },
  },
})
const seed = values.seed ?? Date.now() % 1_000_000
console.log(`seed ${seed}, ${values.minutes} minutes, ${values.flows} flows at a time, outages to ${values.outage} s`)
const report = await soak({
  seconds: values.minutes * 60,
  seed,
  flows: values.flows,
  outageMs: values.outage * 1000,
  flowBytes: 4_000_000,
  onMinute: (minute, now) => console.log(`minute ${minute}`.padEnd(16), inWords(now)),
})
const { faults, ...figures } = report
console.log(`flows            ${figures.flows}`)
console.log(`kills            ${figures.kills} (${figures.outages} outages of all paths)`)
console.log(`bytes checked    ${figures.megabytes} MB`)
console.log(`resumed sessions ${figures.resumes}, moved streams ${figures.moved}`)
console.log(`longest pause after the path was back  ${figures.longestPauseMs} ms`)
console.log(`retained, at most                      ${figures.retainedPeakMiB} MiB a session`)
for (const [when, what] of Object.entries(figures.footprint)) console.log(when.padEnd(16), inWords(what))
for (const fault of faults.slice(0, 20)) console.log(`FAULT ${fault}`)
console.log(JSON.stringify({ seed, ...figures, faults: faults.length }))
// In seconds, chance may leave no session to resume; in minutes it would mean that nothing was tried.
const isIdle = values.minutes >= 1 && figures.resumes === 0
process.exitCode = faults.length > 0 || isIdle ? 1 : 0

function inWords({ rssMiB, liveMiB, descriptors, streams }: Footprint): string {
  return `RSS ${rssMiB} MiB, live objects and buffers ${liveMiB} MiB, ${descriptors} descriptors, ${streams} streams`
}
