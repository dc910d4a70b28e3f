import { call, serve } from './serve.ts'

/** What customers see: asks the nearest cart. */
serve(async () => ({
  service: 'storefront',
  cart: await call('http://shop.acme.cart.prod.any.closest.local:8080/'),
}))
