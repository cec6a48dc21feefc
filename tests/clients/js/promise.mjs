// matrix-js-sdk uses this function of ES2024, which Node 20 lacks and Node 22 has.
Promise.withResolvers ??= function () {
    let resolve, reject;
    const promise = new Promise((yes, no) => ([resolve, reject] = [yes, no]));
    return { promise, resolve, reject };
};
