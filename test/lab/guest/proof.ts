import { linkContract } from '../../contracts/link.ts'

/** What runs in the guest: the contract of links over `tc netem`, judged without a test runner. The last line says how it went. */
let failed = 0
let passed = 0
try {
  await linkContract('netem', {
    ok: (fact, what) => {
      if (fact) passed += 1
      else failed += 1
      console.log(`${fact ? 'ok' : 'not ok'} - ${what}`)
    },
  })
} catch (error) {
  failed += 1
  console.log(error)
}
console.log(`GUEST ${passed} passed, ${failed} failed`)
